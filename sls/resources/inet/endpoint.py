"""One end of a TCP connection by itself, as TCP_REPAIR shows it and makes it: sequence numbers, window, options.

Sequence numbers and the agreed options are read in repair mode once; from then on the counters of TCP_INFO tell how far
the connection has come, so that a look at a quiet one needs three calls and no repair mode. Bytes that were written and
are not acknowledged are read in repair mode each time. See `repair` for who does that, and why.
"""

import fcntl
import socket
import struct
from collections.abc import Callable, Mapping
from functools import partial
from typing import Final, NamedTuple

from sls.child import told_by_child
from sls.resources.base import OpenFile, Record
from sls.resources.inet.repair import (
    RECEIVE_QUEUE,
    SEND_QUEUE,
    connection_state,
    has_sent_fin,
    in_repair,
    queued_bytes,
    refill,
    sequence_of,
    set_sequence,
)
from sls.resources.socket_options import socket_view
from sls.resources.socket_queue import readable_bytes
from sls.sock_diag import TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK

Address = tuple[str, int] | tuple[str, int, int, int]

_TCP_MAXSEG, _TCP_REPAIR_OPTIONS, _TCP_TIMESTAMP, _TCP_REPAIR_WINDOW = 2, 22, 24, 29
_STAMPED, _SELECTIVE, _SCALED = 1, 2, 4  # TCPI_OPT_
_MSS, _SCALE, _SACK_PERMITTED, _TIMESTAMPS = 2, 3, 4, 8  # TCPOPT_, RFC 9293, RFC 7323, RFC 2018
_SIOCOUTQ, _SIOCOUTQNSD = 0x5411, 0x894B
_SO_COOKIE: Final = 57
_INFO_BYTES: Final = 240
_WINDOW = struct.Struct("=5I")  # struct tcp_repair_window
WRAP: Final = 1 << 32


class TcpEndpoint(Record, frozen=True):
    """Sequence numbers count bytes, no SYN and no FIN.

    `unacknowledged`: of the first byte in `written`, which holds what the other end has not confirmed; `sent_bytes` of
    it have gone out at least once. `awaited`: of the next byte from there. `timestamp`: this end's clock (RFC 7323).
    """

    unacknowledged: int
    written: bytes
    sent_bytes: int
    awaited: int
    unread_bytes: int
    has_sent_fin: bool
    has_received_fin: bool
    segment_bytes: int
    scales: tuple[int, int] | None
    has_selective: bool
    has_timestamps: bool
    timestamp: int
    send_window: int
    largest_send_window: int
    receive_window: int

    @property
    def end(self) -> int:
        """The highest number that the other end can confirm, a FIN counted."""
        return (self.unacknowledged + len(self.written) + self.has_sent_fin) % WRAP

    @property
    def next_awaited(self) -> int:
        """As the other end counts: its FIN has a number."""
        return (self.awaited + self.has_received_fin) % WRAP


class _Info(NamedTuple):
    """What TCP_INFO says."""

    state: int
    options: int
    scales: int
    acknowledged: int
    received: int
    windows: tuple[int, ...]  # send and receive; none from a kernel before 6.2

    @classmethod
    def of(cls, view: socket.socket) -> "_Info":
        data = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES)
        acknowledged, received = struct.unpack_from("=QQ", data, 120)
        windows = struct.unpack_from("=II", data, 228) if len(data) >= 236 else ()
        return cls(data[0], data[5], data[6], acknowledged, received, windows)


class _Base(NamedTuple):
    """Sequence numbers where both counters are 0, and what stays as long as the connection."""

    sent: int
    received: int
    segment_bytes: int
    window: tuple[int, ...]


def capture_endpoints(files: list[OpenFile], network: bytes) -> dict[int, TcpEndpoint]:
    """File id → endpoint, of all connections in a network. The owners stand still; the kernel may send and receive."""
    bases = _bases(files, f"tcp bases {network!r}")
    written = _written([file for file in files if _outgoing(file)])
    return {
        file.file_id: _look(file, bases[file.file_id], written.get(file.file_id)) for file in files
    }


def _bases(files: list[OpenFile], name: str) -> dict[int, _Base]:
    """By file id; remembered with the processes as long as the connections are there."""
    processes = {file.process for file in files}
    known: dict[bytes, _Base] = {}
    for process in processes:
        known.update(process.memo.of(name, b"", dict))
    cookies = {file.file_id: _cookie(file) for file in files}
    new = [file for file in files if cookies[file.file_id] not in known]
    known.update(zip((cookies[one.file_id] for one in new), _learn(new), strict=True))
    for process in processes:
        held = (cookies[file.file_id] for file in files if file.process is process)
        process.memo.put(name, b"", {cookie: known[cookie] for cookie in held})
    return {file_id: known[cookie] for file_id, cookie in cookies.items()}


def _cookie(file: OpenFile) -> bytes:
    with socket_view(file.descriptor) as view:
        return view.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8)


def _outgoing(file: OpenFile) -> int:
    return _ioctl(file.descriptor, _SIOCOUTQ)


def _ioctl(fd: int, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0])


def _learn(files: list[OpenFile]) -> list[_Base]:
    """The base of each connection."""
    descriptors = [file.descriptor for file in files]
    return told_by_child(lambda: [_base(fd) for fd in descriptors], list[_Base]) if files else []


def _base(fd: int) -> _Base:
    with in_repair(fd) as view:
        before = None
        while before != (info := _Info.of(view)):
            before = info
            received = sequence_of(view, RECEIVE_QUEUE)
            sent = sequence_of(view, SEND_QUEUE) - _ioctl(fd, _SIOCOUTQ)
            segment_bytes = view.getsockopt(socket.IPPROTO_TCP, _TCP_MAXSEG)
            window = view.getsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_WINDOW, _WINDOW.size)
        return _Base(
            (sent - info.acknowledged) % WRAP,
            (received - info.received) % WRAP,
            segment_bytes,
            _WINDOW.unpack(window),
        )


class _Written(NamedTuple):
    """`end`: the sequence number behind the bytes, without a FIN."""

    data: bytes
    unsent_bytes: int
    end: int


def _written(files: list[OpenFile]) -> Mapping[int, _Written]:
    if not files:
        return {}
    descriptors = [file.descriptor for file in files]
    found = told_by_child(lambda: [_look_at_queue(fd) for fd in descriptors], list[_Written])
    return {file.file_id: one for file, one in zip(files, found, strict=True)}


def _look_at_queue(fd: int) -> _Written:
    with in_repair(fd) as view:
        end = sequence_of(view, SEND_QUEUE) - has_sent_fin(connection_state(view))
        data = queued_bytes(view)
        return _Written(data, min(len(data), _ioctl(fd, _SIOCOUTQNSD)), end % WRAP)


def _look(file: OpenFile, base: _Base, written: _Written | None) -> TcpEndpoint:
    with socket_view(file.descriptor) as view:
        before = None
        while before != (info := _Info.of(view)):  # data may arrive meanwhile
            before = info
            unread_bytes = readable_bytes(view)
        timestamp = view.getsockopt(socket.IPPROTO_TCP, _TCP_TIMESTAMP) % WRAP
    is_shut = has_sent_fin(info.state)
    has_ended = info.state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING)
    if written is None:
        written = _Written(b"", 0, (base.sent + info.acknowledged - is_shut) % WRAP)
    send_window, receive_window = info.windows or (base.window[1], base.window[3])
    return TcpEndpoint(
        unacknowledged=(written.end - len(written.data)) % WRAP,
        written=written.data,
        sent_bytes=len(written.data) - written.unsent_bytes,
        awaited=(base.received + info.received - has_ended) % WRAP,
        unread_bytes=unread_bytes,
        has_sent_fin=is_shut,
        has_received_fin=has_ended,
        segment_bytes=base.segment_bytes,
        scales=(info.scales & 0xF, info.scales >> 4) if info.options & _SCALED else None,
        has_selective=bool(info.options & _SELECTIVE),
        has_timestamps=bool(info.options & _STAMPED),
        timestamp=timestamp,
        send_window=send_window,
        largest_send_window=max(base.window[2], send_window),
        receive_window=receive_window,
    )


# --- restore --------------------------------------------------------------------------------------------------------


def rebuild(
    view: socket.socket,
    endpoint: TcpEndpoint,
    unread: bytes,
    remote: Address,
    bring_fin: Callable[[], None],
) -> None:
    """Make a bound socket in repair mode this end of an established connection. It stays in that mode: it is quiet.

    `bring_fin`: sends it the end that it has received. OSError EADDRNOTAVAIL: another connection has these addresses.
    """
    option = partial(view.setsockopt, socket.IPPROTO_TCP)
    set_sequence(view, SEND_QUEUE, endpoint.unacknowledged)
    set_sequence(view, RECEIVE_QUEUE, (endpoint.awaited - len(unread)) % WRAP)
    view.connect(remote)
    option(_TCP_REPAIR_OPTIONS, _options(endpoint))
    option(_TCP_TIMESTAMP, _signed(endpoint.timestamp))
    refill(view, RECEIVE_QUEUE, unread)
    refill(view, SEND_QUEUE, endpoint.written[: endpoint.sent_bytes])
    bring_fin()
    # a window update is taken when it comes with a number that is not below the first one here
    window = (endpoint.awaited, endpoint.send_window, endpoint.largest_send_window)
    option(_TCP_REPAIR_WINDOW, _WINDOW.pack(*window, endpoint.receive_window, endpoint.awaited))


def _options(endpoint: TcpEndpoint) -> bytes:
    """An array of struct tcp_repair_opt."""
    agreed = [(_MSS, endpoint.segment_bytes)]
    if endpoint.scales is not None:
        send, receive = endpoint.scales
        agreed.append((_SCALE, send | receive << 16))
    agreed += [(_SACK_PERMITTED, 0)] * endpoint.has_selective
    agreed += [(_TIMESTAMPS, 0)] * endpoint.has_timestamps
    return b"".join(struct.pack("=II", *one) for one in agreed)


def _signed(value: int) -> int:
    """setsockopt(2) takes an int."""
    return value - WRAP if value >= WRAP >> 1 else value
