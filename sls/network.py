"""Network namespaces of sockets (network_namespaces(7)): which one a socket is of. Knows no resource."""

import fcntl
import os
import socket
from functools import lru_cache
from typing import Final

_SO_NETNS_COOKIE: Final = 71  # Linux 5.14
_SIOCGSKNS: Final = 0x894C


def is_of_ours(cookie: bytes) -> bool:
    """Whether that is what tells this process's namespace from others."""
    return cookie == _own_cookie(os.getpid())


@lru_cache(maxsize=1)
def _own_cookie(_pid: int) -> bytes:
    """Of this process, which never leaves its own but for a stay."""
    return cookie_here()


def cookie_here() -> bytes:
    """Of the namespace that we are in."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        return cookie_of(own.fileno())


def cookie_of(fd: int) -> bytes:
    """What tells the namespace of a socket from others."""
    view = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM, 0, fileno=fd)
    try:
        return view.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    finally:
        view.detach()


def namespace_of(fd: int) -> int:
    """A descriptor of the namespace that a socket is of."""
    return fcntl.ioctl(fd, _SIOCGSKNS)
