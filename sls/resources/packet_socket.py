"""packet(7) sockets: device, protocol, options, filter, memberships. A ring in shared memory is refused.

Memberships are read by sock_diag(7) (CONFIG_PACKET_DIAG).

Not kept: frames that were not read yet, told; rings, refused.
Kernel: Linux 3.7 (sock_diag; CONFIG_PACKET_DIAG).
"""

import select
import socket
import struct
from typing import Final

from sls import sock_diag, syscalls
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.resources.socket_options import (
    SocketOption,
    inode_of,
    is_socket,
    restore_options,
    socket_view,
    strerror,
)
from sls.resources.socket_sight import capture_options, socket_kind

_SOL_PACKET: Final = 263
_ADD_MEMBERSHIP, _FANOUT = 1, 18
_ADDRESS = struct.Struct("=H2sihBB8x")  # struct sockaddr_ll
_MEMBERSHIP = struct.Struct("=iHH32s")  # struct packet_mreq_max


class PacketMembership(Record, frozen=True):
    """PACKET_ADD_MEMBERSHIP, as often as it was made: multicast, promiscuous, all of multicast."""

    device: str
    kind: int
    address: bytes
    count: int


class PacketSocketRecord(FileRecord, frozen=True, tag="packet_socket"):
    """One socket. `device`: empty for all; `protocol`: in host order, 0 for none yet; `fanout`: 0 for none."""

    kind: int
    device: str
    protocol: int
    options: tuple[SocketOption, ...]
    memberships: tuple[PacketMembership, ...]
    fanout: int


class PacketSocket(FileType[PacketSocketRecord]):
    """Frames as devices give and take them."""

    record = PacketSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        return is_socket(file) and socket_kind(file).domain == socket.AF_PACKET

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PacketSocketRecord:
        try:
            state = sock_diag.packet_socket(inode_of(file))
        except OSError as error:
            raise file.unsupported(f"a packet socket: {strerror(error)}; close it first") from error
        if state.has_ring:
            raise file.unsupported("a packet socket with a ring in shared memory; close it first")
        with socket_view(file.descriptor) as view:
            poller = select.poll()
            poller.register(view.fileno(), select.POLLIN)
            if poller.poll(0):
                ctx.lose(file.pid, f"fd {file.fd}", "frames that were not read yet are lost")
            device, protocol, *_ = view.getsockname()
            return PacketSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                kind=view.type,
                device=device,
                protocol=protocol,
                options=capture_options(ctx, file),
                memberships=tuple(
                    PacketMembership(
                        device=socket.if_indextoname(one.device) if one.device else "",
                        kind=one.kind,
                        address=one.address,
                        count=one.times,
                    )
                    for one in state.memberships
                ),
                fanout=view.getsockopt(_SOL_PACKET, _FANOUT),
            )

    def restore(self, ctx: RestoreContext, record: PacketSocketRecord) -> int:
        """Deaf at first: frames arrive once filter and options are there."""
        view = socket.socket(socket.AF_PACKET, record.kind, 0)
        try:
            restore_options(ctx, view.fileno(), record.options)
            for membership in record.memberships:
                _join(ctx, view, membership)
            index = _index(ctx, record.device)
            if index is not None and (record.protocol or record.device):
                protocol = record.protocol.to_bytes(2, "big")
                address = _ADDRESS.pack(socket.AF_PACKET, protocol, index, 0, 0, 0)
                syscalls.syscall_on("bind", view.fileno(), address, len(address))
            if record.fanout:
                view.setsockopt(_SOL_PACKET, _FANOUT, record.fanout)
        except BaseException:
            view.close()
            raise
        return view.detach()


def _join(ctx: RestoreContext, view: socket.socket, one: PacketMembership) -> None:
    index = _index(ctx, one.device)
    if index is not None:
        address = one.address.ljust(32, b"\0")
        request = _MEMBERSHIP.pack(index, one.kind, len(one.address), address)
        for _ in range(one.count):
            view.setsockopt(_SOL_PACKET, _ADD_MEMBERSHIP, request)


def _index(ctx: RestoreContext, device: str) -> int | None:
    """0 stands for all devices; None for one that is gone."""
    try:
        return socket.if_nametoindex(device) if device else 0
    except OSError:
        ctx.note("packet socket", f"there is no device {device}: the socket hears nothing")
        return None
