"""tcp(7): listening sockets, sockets that are only bound, and fresh ones."""

import errno
import socket
import struct

from sls import sock_diag
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext
from sls.resources.inet.address import InetAddress, conflict, local_address, socket_address
from sls.resources.socket_options import (
    SocketOption,
    capture_options,
    is_socket,
    restore_options,
    socket_kind,
    socket_view,
)

_TCP_INFO_BYTES = 104


class TcpSocketRecord(FileRecord, frozen=True, tag="tcp_socket"):
    """One TCP socket. `backlog`: None when it does not listen."""

    domain: int
    local: InetAddress | None
    backlog: int | None
    options: tuple[SocketOption, ...]


class TcpSocket(FileType[TcpSocketRecord]):
    """TCP over IPv4 and IPv6."""

    record = TcpSocketRecord

    def matches(self, file: OpenFile) -> bool:
        if not is_socket(file):
            return False
        kind = socket_kind(file)
        return (
            kind.domain in (socket.AF_INET, socket.AF_INET6)
            and kind.type == socket.SOCK_STREAM
            and kind.protocol == socket.IPPROTO_TCP
        )

    def capture(self, ctx: CaptureContext, file: OpenFile) -> TcpSocketRecord:
        with socket_view(file.descriptor) as view:
            state, waiting, backlog = _listening_state(view)
            if state not in (sock_diag.TCP_LISTEN, sock_diag.TCP_CLOSE):
                raise file.unsupported("an established TCP connection is not supported yet")
            if state == sock_diag.TCP_LISTEN and waiting:
                ctx.lose(
                    file.pid,
                    f"fd {file.fd}",
                    f"{waiting} connection(s) that wait to be accepted end with a reset",
                )
            return TcpSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                domain=view.family,
                local=local_address(view),
                backlog=backlog if state == sock_diag.TCP_LISTEN else None,
                options=capture_options(file),
            )

    def restore(self, ctx: RestoreContext, record: TcpSocketRecord) -> int:
        view = socket.socket(record.domain, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            restore_options(ctx, view.fileno(), record.options)
            if record.local is not None:
                _bind_and_listen(view, record.local, record.backlog)
        except BaseException:
            view.close()
            raise
        return view.detach()


def _listening_state(view: socket.socket) -> tuple[int, int, int]:
    """(state, waiting, backlog): of a listener, struct tcp_info gives both as `unacked`, `sacked` (net/ipv4/tcp.c)."""
    info = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
    waiting, backlog = struct.unpack_from("=II", info, 24)
    return info[0], waiting, backlog


def _bind_and_listen(view: socket.socket, local: InetAddress, backlog: int | None) -> None:
    try:
        _occupy(view, local, backlog)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not _end_orphans(local.port):
            raise conflict(local, error) from error
        try:
            _occupy(view, local, backlog)
        except OSError as again:
            raise conflict(local, again) from again


def _occupy(view: socket.socket, local: InetAddress, backlog: int | None) -> None:
    if local_address(view) is None:
        view.bind(socket_address(view.family, local))
    if backlog is not None:
        view.listen(backlog)


def _end_orphans(port: int) -> bool:
    """Abort what the killed program's connections left on the port; False when some living socket has it.

    Without SO_REUSEADDR, FIN_WAIT and TIME_WAIT of old connections keep a port from being bound for minutes (tcp(7)).
    """
    found = [
        one
        for family in (socket.AF_INET, socket.AF_INET6)
        for one in sock_diag.tcp_sockets(family, port)
    ]
    if any(one.inode for one in found):
        return False
    for one in found:
        sock_diag.destroy(one)
    return bool(found)
