"""Network namespaces of sockets (network_namespaces(7)): which one a socket is of, and a stay in it.

A stay changes the calling thread alone, and ends with the `with` block. Knows no resource.
"""

import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Final

from sls import syscalls

NEW_NET: Final = 0x40000000
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


@contextmanager
def stay(namespace: int) -> Iterator[None]:
    """Calls within are made in that namespace; sockets made there stay of it."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.syscall("setns", namespace, NEW_NET)
        try:
            yield
        finally:
            syscalls.syscall("setns", home, NEW_NET)
    finally:
        os.close(home)
