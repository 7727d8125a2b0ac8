"""Addresses of ip(7) and ipv6(7) as records, and bind(2) with words for what is in its way."""

import errno
import socket
import struct
import sys
from functools import lru_cache

from sls.errors import RestoreConflictError
from sls.resources.base import Record
from sls.resources.socket_options import strerror


class InetAddress(Record, frozen=True):
    """Where a socket is bound or connected. `flow_info` and `scope_id`: ipv6(7) only."""

    host: str
    port: int
    flow_info: int = 0
    scope_id: int = 0

    @classmethod
    def of(cls, address: tuple[str, int] | tuple[str, int, int, int]) -> "InetAddress":
        """From the form that Python's sockets give."""
        host, port, *rest = address
        flow_info, scope_id = rest or (0, 0)
        # getnameinfo(3) appends the scope to a link-local address
        return cls(host=host.partition("%")[0], port=port, flow_info=flow_info, scope_id=scope_id)

    def describe(self) -> str:
        """As in a URL."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


_INET = struct.Struct(">H4s")
_INET6 = struct.Struct(">HI16s")


@lru_cache(maxsize=4096)
def address_of(name: bytes) -> InetAddress | None:
    """From a sockaddr, ip(7) and ipv6(7); None where the port is 0, which means none."""
    family = int.from_bytes(name[:2], sys.byteorder)
    if family == socket.AF_INET6:
        port, flow_info, host = _INET6.unpack_from(name, 2)
        scope_id = int.from_bytes(name[24:28], sys.byteorder)
        return _address(host, port, flow_info, scope_id) if port else None
    port, host = _INET.unpack_from(name, 2)
    return _address(host, port, 0, 0) if port else None


def _address(host: bytes, port: int, flow_info: int, scope_id: int) -> InetAddress:
    family = socket.AF_INET if len(host) == 4 else socket.AF_INET6
    text = socket.inet_ntop(family, host)
    return InetAddress(host=text, port=port, flow_info=flow_info, scope_id=scope_id)


def local_address(view: socket.socket) -> InetAddress | None:
    """Where the socket is bound; None when it is not."""
    address = InetAddress.of(view.getsockname())
    return address if address.port else None


def remote_address(view: socket.socket) -> InetAddress | None:
    """Where the socket is connected; None when it is not."""
    try:
        return InetAddress.of(view.getpeername())
    except OSError:
        return None


def socket_address(
    domain: int, address: InetAddress
) -> tuple[str, int] | tuple[str, int, int, int]:
    """The form that Python's sockets take."""
    if domain == socket.AF_INET6:
        return address.host, address.port, address.flow_info, address.scope_id
    return address.host, address.port


def bind(view: socket.socket, address: InetAddress) -> None:
    """bind(2). RestoreConflictError (EADDRINUSE, EADDRNOTAVAIL) names the address."""
    try:
        view.bind(socket_address(view.family, address))
    except OSError as error:
        raise conflict(address, error) from error


def conflict(address: InetAddress, error: OSError) -> RestoreConflictError:
    """The words for a failed bind(2) or listen(2)."""
    advice = {
        errno.EADDRINUSE: "end the program that uses it",
        errno.EADDRNOTAVAIL: "give this machine the address",
    }.get(error.errno or 0, "make it possible")
    return RestoreConflictError(
        f"{address.describe()}: {strerror(error)}; {advice} and restore again",
        error.errno or errno.EADDRINUSE,
    )
