"""raw(7) sockets over IPv4 and IPv6: addresses, protocol, options, the filter of ICMP types.

Packets that were not read yet are lost, as they are when a queue is full.

Not kept: packets that were not read yet, told.
Kernel: any.
"""

import select
import socket
from collections.abc import Callable
from typing import Any, Final

from sls import proc
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext
from sls.resources.inet.address import InetAddress, conflict, local_address, socket_address
from sls.resources.socket_options import (
    SocketOption,
    inode_of,
    is_socket,
    restore_options,
    socket_view,
)
from sls.resources.socket_sight import capture_options, socket_kind

_ANY: Final = ("0.0.0.0", "::")
# (level, number, bytes) of ICMP_FILTER and ICMP6_FILTER
_TYPE_FILTER: Final = {socket.AF_INET: (255, 1, 4), socket.AF_INET6: (socket.IPPROTO_ICMPV6, 1, 32)}


class RawSocketRecord(FileRecord, frozen=True, tag="raw_socket"):
    """One raw socket. `type_filter`: which ICMP types are dropped; empty for other protocols."""

    domain: int
    protocol: int
    local: InetAddress | None
    remote: InetAddress | None
    options: tuple[SocketOption, ...]
    type_filter: bytes


class RawSocket(FileType[RawSocketRecord]):
    """Packets with their headers."""

    record = RawSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        if not is_socket(file):
            return False
        kind = socket_kind(file)
        return kind.domain in (socket.AF_INET, socket.AF_INET6) and kind.type == socket.SOCK_RAW

    def capture(self, ctx: CaptureContext, file: OpenFile) -> RawSocketRecord:
        with socket_view(file.descriptor) as view:
            tell_unread(ctx, file, "a raw socket")
            return RawSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                domain=view.family,
                protocol=view.proto,
                local=local_address(view),
                remote=remote_of(file, view.family),
                options=capture_options(ctx, file),
                type_filter=_type_filter(view),
            )

    def restore(self, ctx: RestoreContext, record: RawSocketRecord) -> int:
        view = socket.socket(record.domain, socket.SOCK_RAW, record.protocol)
        try:
            restore_options(ctx, view.fileno(), record.options)
            if record.type_filter:
                level, number, _ = _TYPE_FILTER[socket.AddressFamily(record.domain)]
                view.setsockopt(level, number, record.type_filter)
            for address, move in ((record.local, view.bind), (record.remote, view.connect)):
                if address is not None and address.host not in _ANY:
                    attempt(record.domain, address, move)
        except BaseException:
            view.close()
            raise
        return view.detach()


def _type_filter(view: socket.socket) -> bytes:
    level, number, size = _TYPE_FILTER[socket.AddressFamily(view.family)]
    try:
        return view.getsockopt(level, number, size)
    except OSError:
        return b""


def tell_unread(ctx: CaptureContext, file: OpenFile, name: str) -> None:
    """A loss where packets wait, for their headers are not to be had without taking them."""
    poller = select.poll()
    poller.register(file.descriptor, select.POLLIN)
    if poller.poll(0):
        ctx.lose(file.pid, f"fd {file.fd}", f"packets that {name} has not read yet are lost")


def remote_of(file: OpenFile, family: int) -> InetAddress | None:
    """getpeername(2) fails for a port of 0, which is what sockets without ports are connected to."""
    packed = proc.portless_remote(inode_of(file))
    return InetAddress(host=socket.inet_ntop(family, packed), port=0) if packed else None


def attempt(domain: int, address: InetAddress, move: Callable[[Any], None]) -> None:
    """bind(2) or connect(2); RestoreConflictError names the address."""
    try:
        move(socket_address(domain, address))
    except OSError as error:
        raise conflict(address, error) from error
