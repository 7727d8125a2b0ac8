"""TCP connections brought back: as they were where the other end still is there, else as far as they had come."""

import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

import msgspec

from sls.resources.base import RestoreContext
from sls.resources.inet.address import InetAddress, conflict, local_address, socket_address
from sls.resources.inet.connection import Fate, TcpConnection, TcpEnd
from sls.resources.inet.endpoint import WRAP, TcpEndpoint, rebuild
from sls.resources.inet.orphans import end_orphans
from sls.resources.inet.outside import addresses_of, verdict_on
from sls.resources.inet.packets import ACK, FIN, Segment, as_sent_by_the_peer, send
from sls.resources.inet.repair import (
    SEND_QUEUE,
    begin_repair,
    connection_state,
    end_repair,
    refill,
)
from sls.resources.inet.signature import SigningKey, restore_keys
from sls.resources.socket_options import socket_view, strerror
from sls.resources.socket_queue import readable_bytes
from sls.sock_diag import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_SYN_SENT

_SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 32, 33
_AMPLE_BYTES: Final = 1 << 26
_CONNECT_SECONDS: Final = 3.0
_DELIVERY_SECONDS: Final = 0.1
_LINGER_RESET: Final = struct.pack("=ii", 1, 0)


def open_connection(
    ctx: RestoreContext, file_id: int, connection: TcpConnection, keys: Sequence[SigningKey]
) -> int:
    """A descriptor of this end; what must wait for listeners is done by `connect`."""
    if connection.fate is Fate.JOINED and connection.endpoint is not None:
        return _rebuilt(ctx, file_id, connection, connection.endpoint, keys)
    if connection.fate is Fate.OUTSIDE:
        return _rebuilt_or_reset(ctx, file_id, connection, keys)
    if connection.fate is Fate.JOINED:
        ctx.note("tcp", "a connection in an image of an earlier program comes back reset")
    if connection.fate in (Fate.WAITING, Fate.CONNECTING):
        view = _bound(connection.end)
        restore_keys(view, keys)
        return view.detach()
    if connection.fate is Fate.REFUSED:
        return _refused(connection)
    return _finished(ctx, connection)


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


def end_sending(view: socket.socket, connection: TcpConnection) -> None:
    """Of one in a listener's queue: what comes after `connect`."""
    if connection.is_shut_for_writing:
        _await(lambda: connection_state(view) != TCP_SYN_SENT)
        view.shutdown(socket.SHUT_WR)


def shut_down(view: socket.socket, connection: TcpConnection) -> None:
    """Half-closed as it was."""
    if connection.is_shut_for_writing or (connection.endpoint and connection.endpoint.has_sent_fin):
        view.shutdown(socket.SHUT_WR)
    if connection.is_shut_for_reading:
        view.shutdown(socket.SHUT_RD)


def _rebuilt_or_reset(
    ctx: RestoreContext, file_id: int, connection: TcpConnection, keys: Sequence[SigningKey]
) -> int:
    remote, endpoint = connection.remote, connection.endpoint
    assert remote is not None
    assert endpoint is not None
    verdict = verdict_on(ctx, addresses_of(connection.end.local, remote))
    if verdict.reason:
        words = f"the connection to {remote.describe()} comes back reset: {verdict.reason}"
        ctx.note("tcp", words)
        return _finished(ctx, connection)
    sent_bytes = max(endpoint.sent_bytes, verdict.confirmed_bytes)
    endpoint = msgspec.structs.replace(endpoint, sent_bytes=sent_bytes)
    return _rebuilt(ctx, file_id, connection, endpoint, keys)


def _rebuilt(
    ctx: RestoreContext,
    file_id: int,
    connection: TcpConnection,
    endpoint: TcpEndpoint,
    keys: Sequence[SigningKey],
) -> int:
    """This end where it was, in repair mode until the parting ends."""
    local, remote = connection.end.local, connection.remote
    assert remote is not None
    for port in (local.port, remote.port) if connection.fate is Fate.JOINED else (local.port,):
        ctx.once(("orphans of port", port), partial(end_orphans, port))
    view = _unbound(connection.end)
    try:
        begin_repair(view)
        view.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _AMPLE_BYTES)
        view.bind(socket_address(view.family, local))
        restore_keys(view, keys)
        where = socket_address(view.family, remote)
        rebuild(
            view,
            endpoint,
            connection.unread,
            where,
            partial(_bring_fin, view, connection, endpoint),
        )
    except OSError as error:
        view.close()
        raise conflict(local, error) from error
    if connection.fate is Fate.JOINED:
        _awaited(ctx)[local, remote] = endpoint.awaited
    ctx.at_last(partial(_resume, ctx, file_id, connection, endpoint))
    return view.detach()


def _awaited(ctx: RestoreContext) -> dict[tuple[InetAddress, InetAddress], int]:
    """Of connections with both ends inside: (an end, the other one) → the sequence number that the first waits for."""
    return ctx.once("awaited by both ends inside", dict)


def _arrived_bytes(ctx: RestoreContext, connection: TcpConnection, endpoint: TcpEndpoint) -> int:
    """How much of what was written has arrived at the other end, if that is inside.

    It may be more than this end had sent when it was looked at: the kernel's timers run while the program stands still.
    """
    assert connection.remote is not None
    awaited = _awaited(ctx).get((connection.remote, connection.end.local), endpoint.unacknowledged)
    arrived = (awaited - endpoint.unacknowledged) % WRAP
    return arrived if arrived <= len(endpoint.written) else 0


def _bring_fin(view: socket.socket, connection: TcpConnection, endpoint: TcpEndpoint) -> None:
    """The other end's FIN, once more. One that is inside sends it itself (`shut_down`)."""
    if not endpoint.has_received_fin or connection.fate is Fate.JOINED:
        return
    assert connection.remote is not None
    fin = Segment(
        endpoint.awaited, endpoint.unacknowledged, FIN | ACK, scope=connection.end.local.scope_id
    )
    send(as_sent_by_the_peer(addresses_of(connection.end.local, connection.remote)), fin)
    _await(lambda: connection_state(view) == TCP_CLOSE_WAIT)


def _resume(
    ctx: RestoreContext, file_id: int, connection: TcpConnection, endpoint: TcpEndpoint
) -> None:
    """Out of repair mode; then what was not sent yet, and the end if it was."""
    sent_bytes = max(endpoint.sent_bytes, _arrived_bytes(ctx, connection, endpoint))
    with socket_view(ctx.descriptor(file_id)) as view:
        refill(view, SEND_QUEUE, endpoint.written[endpoint.sent_bytes : sent_bytes])
        end_repair(view)
        size_bytes = view.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)
        _send_all(ctx, view, endpoint.written[sent_bytes:])
        view.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, size_bytes // 2)
        shut_down(view, connection)


def _unbound(end: TcpEnd) -> socket.socket:
    """Buffers decide the window scale, so they come first."""
    view = socket.socket(end.domain, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    view.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    view.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, end.receive_buffer_bytes // 2)
    return view


def _bound(end: TcpEnd) -> socket.socket:
    """A socket at an end's address, whatever else uses the port without listening."""
    view = _unbound(end)
    try:
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
            has_ended = connection.endpoint is not None and connection.endpoint.has_received_fin
            if connection.fate is not Fate.ENDED and not has_ended:
                other.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_RESET)
        if connection.fate is Fate.ENDED:
            view.shutdown(socket.SHUT_WR)
    except OSError as error:
        view.close()
        raise conflict(connection.end.local, error) from error
    return view.detach()


def _refused(connection: TcpConnection) -> int:
    """An end whose connect(2) has failed: so does one to a port that is taken and that nobody listens on."""
    view = _bound(connection.end)
    try:
        with socket.socket(connection.end.domain, socket.SOCK_STREAM) as taken:
            taken.bind(socket_address(connection.end.domain, _next_to(view, connection.end)))
            view.setblocking(False)
            with suppress(BlockingIOError):
                view.connect(taken.getsockname())
            _await(lambda: connection_state(view) == TCP_CLOSE)
        view.setblocking(True)
    except OSError as error:
        view.close()
        raise conflict(connection.end.local, error) from error
    return view.detach()


def _next_to(view: socket.socket, end: TcpEnd) -> InetAddress:
    """Any port on the address that the socket is bound to, or on the loopback device."""
    address = local_address(view)
    host = address.host if address else ("::1" if ":" in end.local.host else "127.0.0.1")
    return InetAddress(host=host, port=0, scope_id=end.local.scope_id)


def _met(view: socket.socket, end: TcpEnd) -> socket.socket:
    """Connect `view` to a passing listener next to it; the other end."""
    with socket.socket(end.domain, socket.SOCK_STREAM) as listener:
        listener.bind(socket_address(end.domain, _next_to(view, end)))
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
