"""TCP connections made anew: over the same addresses where both ends are inside, else as far as they had come."""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable
from typing import Final

from sls.resources.base import RestoreContext
from sls.resources.inet.address import InetAddress, conflict, local_address, socket_address
from sls.resources.inet.connection import Fate, TcpConnection, TcpEnd
from sls.resources.inet.orphans import end_orphans
from sls.resources.socket_options import socket_view, strerror
from sls.resources.socket_queue import readable_bytes

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_AMPLE_BYTES: Final = 1 << 26
_CONNECT_SECONDS: Final = 3.0
_DELIVERY_SECONDS: Final = 0.1
_LINGER_RESET: Final = struct.pack("=ii", 1, 0)


def open_connection(ctx: RestoreContext, file_id: int, connection: TcpConnection) -> int:
    """A descriptor of this end; what must wait for listeners is done by `connect` and `refill`."""
    if connection.fate is Fate.JOINED:
        other = connection.other_end
        assert other is not None
        ends = {file_id: connection.end, connection.other_file: other}
        pair = ctx.once(("tcp connection", *sorted(ends)), lambda: _join(ctx, ends))
        return os.dup(pair[file_id])
    if connection.fate in (Fate.RESET, Fate.ENDED):
        return _finished(ctx, connection)
    view = _bound(connection.end)
    return view.detach()


def connect(ctx: RestoreContext, view: socket.socket, remote: InetAddress | None) -> None:
    """Start connect(2) again, once the listeners are there; it ends by itself, as one under way."""
    if remote is None:
        return
    blocking = os.get_blocking(view.fileno())
    os.set_blocking(view.fileno(), False)
    try:
        view.connect(socket_address(view.family, remote))
    except BlockingIOError:
        pass
    except OSError as error:
        ctx.note("tcp", f"connect to {remote.describe()}: {strerror(error)}")
    finally:
        os.set_blocking(view.fileno(), blocking)


def refill_unread(ctx: RestoreContext, file_id: int, connection: TcpConnection) -> None:
    """What this end has received goes through the connection once more."""
    if connection.fate is Fate.JOINED and connection.unread:
        with (
            socket_view(ctx.descriptor(connection.other_file)) as sender,
            socket_view(ctx.descriptor(file_id)) as receiver,
        ):
            _send_all(ctx, sender, connection.unread)
            _await(lambda: readable_bytes(receiver) >= len(connection.unread))


def refill_unsent(ctx: RestoreContext, view: socket.socket, connection: TcpConnection) -> None:
    """What this end has written and the other one has not received, behind what that has."""
    if connection.unsent:
        _send_all(ctx, view, connection.unsent)


def shut_down(view: socket.socket, connection: TcpConnection) -> None:
    """Half-closed as it was."""
    if connection.is_shut_for_writing:
        view.shutdown(socket.SHUT_WR)
    if connection.is_shut_for_reading:
        view.shutdown(socket.SHUT_RD)


def _join(ctx: RestoreContext, ends: dict[int, TcpEnd]) -> dict[int, int]:
    """File id → descriptor of both ends: a passing listener, a connect(2), an accept(2)."""
    (first_id, first), (second_id, second) = ends.items()
    if second.is_accepted and not first.is_accepted:
        first_id, first, second_id, second = second_id, second, first_id, first
    end_orphans(first.local.port, second.local.port)
    end_orphans(second.local.port, first.local.port)
    with _bound(first) as listener:
        listener.listen(1)
        client = _bound(second)
        try:
            address = _as_seen_from(second.domain, first.local)
            client.settimeout(_CONNECT_SECONDS)
            client.connect(socket_address(second.domain, address))
            listener.settimeout(_CONNECT_SECONDS)
            server, _ = listener.accept()
        except OSError as error:
            client.close()
            raise conflict(first.local, error) from error
    return {first_id: ctx.opened(server.detach()), second_id: ctx.opened(client.detach())}


def _as_seen_from(domain: int, address: InetAddress) -> InetAddress:
    """An IPv4 address in IPv6's clothes or without."""
    host = address.host
    if domain == socket.AF_INET:
        host = host.removeprefix("::ffff:")
    elif ":" not in host:
        host = f"::ffff:{host}"
    return InetAddress(host=host, port=address.port, scope_id=address.scope_id)


def _bound(end: TcpEnd) -> socket.socket:
    """A socket at an end's address, whatever else uses the port without listening; buffers decide the window scale."""
    view = socket.socket(end.domain, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        view.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        view.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, end.receive_buffer_bytes // 2)
        if end.local.port:
            _take_port(view, end.local)
    except OSError as error:
        view.close()
        raise conflict(end.local, error) from error
    return view


def _take_port(view: socket.socket, local: InetAddress) -> None:
    try:
        view.bind(socket_address(view.family, local))
    except OSError as error:
        if error.errno != errno.EADDRINUSE or not end_orphans(local.port):
            raise
        view.bind(socket_address(view.family, local))


def _finished(ctx: RestoreContext, connection: TcpConnection) -> int:
    """An end whose other end is gone: unread bytes, then the end of file or a reset."""
    view = _bound(connection.end)
    try:
        with _met(view, connection.end) as other:
            _send_all(ctx, other, connection.unread)
            _await(lambda: readable_bytes(view) >= len(connection.unread))
            if connection.fate is Fate.RESET:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        if connection.fate is Fate.ENDED:
            view.shutdown(socket.SHUT_WR)
    except OSError as error:
        view.close()
        raise conflict(connection.end.local, error) from error
    return view.detach()


def _met(view: socket.socket, end: TcpEnd) -> socket.socket:
    """Connect `view` to a passing listener next to it; the other end."""
    address = local_address(view)
    host = address.host if address else ("::1" if ":" in end.local.host else "127.0.0.1")
    here = InetAddress(host=host, port=0, scope_id=end.local.scope_id)
    with socket.socket(end.domain, socket.SOCK_STREAM) as listener:
        listener.bind(socket_address(end.domain, here))
        listener.listen(1)
        view.connect(listener.getsockname())
        return listener.accept()[0]


def _send_all(ctx: RestoreContext, sender: socket.socket, data: bytes) -> None:
    sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _AMPLE_BYTES)
    left = memoryview(data)
    deadline = time.monotonic() + _CONNECT_SECONDS
    while left:
        try:
            left = left[sender.send(left, socket.MSG_DONTWAIT) :]
        except BlockingIOError:
            if time.monotonic() > deadline:
                ctx.note("tcp", f"{len(left)} bytes of a connection's queue are lost")
                return
            time.sleep(0.001)


def _await(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _DELIVERY_SECONDS
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.0005)
