"""udp(7): bound and connected sockets, with their queued datagrams and the addresses of the senders.

Not kept: datagrams that do not fit the machine's buffer, told; one that is not finished (UDP_CORK), refused.
Kernel: any.
"""

import socket
from collections.abc import Sequence
from typing import Final

from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext
from sls.resources.inet.address import (
    InetAddress,
    bind,
    conflict,
    local_address,
    remote_address,
    socket_address,
)
from sls.resources.inet.inject import Datagram, inject
from sls.resources.inet.multicast import Membership, capture_memberships, restore_memberships
from sls.resources.socket_options import (
    SocketOption,
    is_socket,
    restore_options,
    socket_view,
    without_filter,
)
from sls.resources.socket_queue import is_peekable, outgoing_bytes, peek_messages
from sls.resources.socket_sight import capture_options, socket_kind

_SO_RCVBUFFORCE: Final = 33
_UDP_CORK: Final = 1
_AMPLE_BYTES: Final = 1 << 26


class UdpSocketRecord(FileRecord, frozen=True, tag="udp_socket"):
    """One UDP socket. `queue`: datagrams not yet read, oldest first."""

    domain: int
    local: InetAddress | None
    remote: InetAddress | None
    options: tuple[SocketOption, ...]
    queue: tuple[Datagram, ...]
    memberships: tuple[Membership, ...] = ()


class UdpSocket(FileType[UdpSocketRecord]):
    """UDP over IPv4 and IPv6."""

    record = UdpSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        if not is_socket(file):
            return False
        kind = socket_kind(file)
        return (
            kind.domain in (socket.AF_INET, socket.AF_INET6)
            and kind.type == socket.SOCK_DGRAM
            and kind.protocol == socket.IPPROTO_UDP
        )

    def capture(self, ctx: CaptureContext, file: OpenFile) -> UdpSocketRecord:
        options = capture_options(ctx, file)
        with socket_view(file.descriptor) as view:
            _refuse_unfinished(file, view)
            return UdpSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                domain=view.family,
                local=local_address(view),
                remote=remote_address(view),
                options=options,
                memberships=capture_memberships(view),
                queue=_queue(file, view) if is_peekable(ctx, file, view) else (),
            )

    def restore(self, ctx: RestoreContext, record: UdpSocketRecord) -> int:
        view = socket.socket(record.domain, socket.SOCK_DGRAM, socket.IPPROTO_UDP)
        try:
            restore_options(ctx, view.fileno(), without_filter(record.options))
            if record.local is not None:
                bind(view, record.local)
                _refill(ctx, view, record.local, record.queue)
            restore_options(ctx, view.fileno(), record.options)
            restore_memberships(ctx, view, record.memberships)
            if record.remote is not None:
                _connect(view, record.remote)
        except BaseException:
            view.close()
            raise
        return view.detach()


def _refuse_unfinished(file: OpenFile, view: socket.socket) -> None:
    """With UDP_CORK a datagram grows until the program lets it go; SIOCOUTQ tells that there is one."""
    if view.getsockopt(socket.IPPROTO_UDP, _UDP_CORK) and outgoing_bytes(view):
        raise file.unsupported(
            "a datagram that is not finished yet (UDP_CORK) cannot be read; try again when it is sent"
        )


def _queue(file: OpenFile, view: socket.socket) -> tuple[Datagram, ...]:
    return tuple(
        Datagram(data=message.data, sender=InetAddress.of(message.address))
        for message in peek_messages(file, view)
    )


def _refill(
    ctx: RestoreContext, view: socket.socket, local: InetAddress, queue: Sequence[Datagram]
) -> None:
    """Before any other socket shares the port, and before a connection narrows down who may send."""
    if not queue:
        return
    view.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _AMPLE_BYTES)
    arrived = inject(view, local, queue)
    if arrived < len(queue):
        ctx.note("udp", f"{local.describe()}: {len(queue) - arrived} queued datagrams are lost")


def _connect(view: socket.socket, remote: InetAddress) -> None:
    """connect(2) of a datagram socket sends nothing."""
    try:
        view.connect(socket_address(view.family, remote))
    except OSError as error:
        raise conflict(remote, error) from error
