"""netlink(7) sockets: port number, group memberships and options. Unread messages cannot be sent again, so none may be.

The kernel's answers carry the kernel's own port number, which no program can send from.

Not kept: unread messages and other protocols, refused.
Kernel: Linux 4.2 (NETLINK_LIST_MEMBERSHIPS).
"""

import select
import socket
import struct
from typing import Final

from sls import proc
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext
from sls.resources.socket_options import (
    SocketOption,
    inode_of,
    is_socket,
    restore_options,
    socket_view,
    strerror,
)
from sls.resources.socket_sight import capture_options, socket_kind

_SOL_NETLINK: Final = 270
_ADD_MEMBERSHIP, _LIST_MEMBERSHIPS = 1, 9
_GROUPS_BYTES: Final = 128
# NETLINK_ROUTE, SOCK_DIAG, XFRM, KOBJECT_UEVENT, GENERIC; others keep more in the kernel than a socket shows
_PROTOCOLS: Final = (0, 4, 6, 15, 16)


class NetlinkSocketRecord(FileRecord, frozen=True, tag="netlink_socket"):
    """`port`: 0 when the socket is not bound. `peer`: (port, groups) where it is connected to."""

    kind: int
    protocol: int
    port: int
    peer: tuple[int, int]
    groups: tuple[int, ...]
    options: tuple[SocketOption, ...]


class NetlinkSocket(FileType[NetlinkSocketRecord]):
    """Conversations with the kernel."""

    record = NetlinkSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        if not is_socket(file):
            return False
        kind = socket_kind(file)
        return kind.domain == socket.AF_NETLINK and kind.protocol in _PROTOCOLS

    def capture(self, ctx: CaptureContext, file: OpenFile) -> NetlinkSocketRecord:
        options = capture_options(ctx, file)
        with socket_view(file.descriptor) as view:
            _refuse_busy(file, view)
            return NetlinkSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                kind=view.type,
                protocol=view.proto,
                port=view.getsockname()[0],
                peer=view.getpeername(),
                groups=_groups(view),
                options=options,
            )

    def restore(self, ctx: RestoreContext, record: NetlinkSocketRecord) -> int:
        view = socket.socket(socket.AF_NETLINK, record.kind, record.protocol)
        try:
            if record.port:
                _bind(ctx, view, record.port)
            for group in record.groups:
                view.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            if record.peer != (0, 0):
                view.connect(record.peer)
            restore_options(ctx, view.fileno(), record.options)
        except BaseException:
            view.close()
            raise
        return view.detach()


def _refuse_busy(file: OpenFile, view: socket.socket) -> None:
    poller = select.poll()
    poller.register(view.fileno(), select.POLLIN)
    if poller.poll(0) or proc.has_netlink_dump(inode_of(file)):
        raise file.unsupported(
            "a netlink socket with unread messages; try again when the program has read them"
        )


def _groups(view: socket.socket) -> tuple[int, ...]:
    """Bit n-1 of the 32-bit words stands for group n."""
    data = view.getsockopt(_SOL_NETLINK, _LIST_MEMBERSHIPS, _GROUPS_BYTES)
    words = struct.unpack(f"={len(data) // 4}I", data[: len(data) // 4 * 4])
    return tuple(
        32 * index + bit + 1
        for index, word in enumerate(words)
        for bit in range(32)
        if word >> bit & 1
    )


def _bind(ctx: RestoreContext, view: socket.socket, port: int) -> None:
    try:
        view.bind((port, 0))
    except OSError as error:
        ctx.note(
            "netlink", f"port {port} is not free ({strerror(error)}); the kernel chose another"
        )
        view.bind((0, 0))
