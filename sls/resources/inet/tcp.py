"""tcp(7): listening and connected sockets, sockets that are only bound, and fresh ones.

Not kept: data in a connection not accepted yet, urgent data: refused; a peer outside that moved on: told.
Kernel: Linux 3.5 (TCP_REPAIR); MD5 keys 4.14, of sockets that listen or are connected.
"""

import errno
import socket
from collections.abc import Iterator
from typing import Final

from sls import sock_diag
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Parting,
    RestoreContext,
)
from sls.resources.inet.address import (
    InetAddress,
    address_of,
    conflict,
    local_address,
    socket_address,
)
from sls.resources.inet.connection import Fate, TcpConnection, capture_connection, part_from
from sls.resources.inet.endpoint import tcp_sight_of
from sls.resources.inet.orphans import end_orphans
from sls.resources.inet.rejoin import (
    connect,
    end_sending,
    open_connection,
)
from sls.resources.inet.signature import SigningKey, capture_keys, restore_keys
from sls.resources.socket_options import SocketOption, restore_options, socket_view
from sls.resources.socket_sight import capture_options, is_tcp, sight_of

# What a sight tells without a further look. Both ends of a joined connection may have to be looked at in one go.
_SEEN_WHOLE: Final = (Fate.OUTSIDE, Fate.RESET, Fate.REFUSED, Fate.ENDED)


class TcpSocketRecord(FileRecord, frozen=True, tag="tcp_socket"):
    """One TCP socket. `backlog`: None when it does not listen. `keys`: with which its segments are signed."""

    domain: int
    local: InetAddress | None
    backlog: int | None
    options: tuple[SocketOption, ...]
    connection: TcpConnection | None = None
    keys: tuple[SigningKey, ...] = ()


class TcpSocket(FileType[TcpSocketRecord]):
    """TCP over IPv4 and IPv6."""

    record = TcpSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        return is_tcp(file)

    def can_wait(self, file: OpenFile) -> bool:
        return file.process.memo.of(_can_wait(file), file.target, lambda: False)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> TcpSocketRecord:
        sight, seen = sight_of(file), tcp_sight_of(file)
        if protocol := sight.upper_protocol.decode():
            raise file.unsupported(f"TCP with {protocol} in the kernel (TCP_ULP) is not supported")
        is_listening = seen.state == sock_diag.TCP_LISTEN
        waiting, backlog = seen.backlog
        if is_listening and waiting:
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                f"{waiting} connection(s) wait to be accepted; those from outside end with a reset",
            )
        connection = None if is_listening else capture_connection(ctx, file, seen.state)
        waits = connection is None or connection.fate in _SEEN_WHOLE
        file.process.memo.put(_can_wait(file), file.target, waits and not ctx.network)
        return TcpSocketRecord(
            file_id=file.file_id,
            flags=file.flags,
            domain=sight.kind.domain,
            local=address_of(sight.local),
            backlog=backlog if is_listening else None,
            options=capture_options(ctx, file, is_connected=connection is not None),
            connection=connection,
            keys=capture_keys(ctx, file) if is_listening or connection is not None else (),
        )

    def part(self, parting: Parting, record: TcpSocketRecord) -> None:
        if record.connection is not None:
            part_from(parting, record.connection)

    def restore(self, ctx: RestoreContext, record: TcpSocketRecord) -> int:
        if record.connection is not None:
            return open_connection(ctx, record.file_id, record.connection, record.keys)
        view = socket.socket(record.domain, socket.SOCK_STREAM, socket.IPPROTO_TCP)
        try:
            restore_options(ctx, view.fileno(), record.options)
            restore_keys(view, record.keys)
        except BaseException:
            view.close()
            raise
        return view.detach()

    def settle(self, ctx: RestoreContext, record: TcpSocketRecord, fd: int) -> Iterator[None]:
        """Connections are made before the listeners take their ports; options of both come last."""
        connection = record.connection
        with socket_view(fd) as view:
            if connection is None and record.local is not None:
                view.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                _bind_and_listen(view, record.local, record.backlog)
            yield
            if connection is not None and connection.fate is Fate.WAITING:
                connect(ctx, view, connection.remote)
            yield
            if connection is not None and connection.fate is Fate.CONNECTING:
                connect(ctx, view, connection.remote)
            if connection is not None and connection.fate is Fate.WAITING:
                end_sending(view, connection)
            restore_options(ctx, fd, record.options)


def _can_wait(file: OpenFile) -> str:
    return f"tcp {file.fd} can wait"


def _bind_and_listen(view: socket.socket, local: InetAddress, backlog: int | None) -> None:
    try:
        _occupy(view, local, backlog)
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not end_orphans(local.port):
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
