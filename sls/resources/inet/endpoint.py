"""One end of a TCP connection by itself, as TCP_REPAIR shows it and makes it: sequence numbers, window, options.

Sequence numbers and the agreed options are read in repair mode once; from then on the counters of TCP_INFO tell how far
the connection has come, so that a look at a quiet one needs three calls and no repair mode. Bytes that were written and
are not acknowledged are read in repair mode each time. See `repair` for who does that, and why.
"""

import fcntl
import mmap
import os
import socket
import struct
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sls import syscalls
from sls.child import told_by_child
from sls.resources.base import CapturedProcess, InFlightFile, OpenFile, Record
from sls.resources.borrowing import Borrowing
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
from sls.resources.socket_queue import peek_offset
from sls.resources.socket_sight import is_tcp_kind, sights_of, sockets_of
from sls.sock_diag import TCP_CLOSE, TCP_CLOSE_WAIT, TCP_CLOSING, TCP_LAST_ACK
from sls.syscalls import PAGE_BYTES, CallTable

Address = tuple[str, int] | tuple[str, int, int, int]

_TCP_MAXSEG, _TCP_REPAIR_OPTIONS, _TCP_TIMESTAMP, _TCP_REPAIR_WINDOW = 2, 22, 24, 29
_STAMPED, _SELECTIVE, _SCALED = 1, 2, 4  # TCPI_OPT_
_MSS, _SCALE, _SACK_PERMITTED, _TIMESTAMPS = 2, 3, 4, 8  # TCPOPT_, RFC 9293, RFC 7323, RFC 2018
_SIOCOUTQ, _SIOCOUTQNSD, _SIOCINQ = 0x5411, 0x894B, 0x541B
_SO_PEEK_OFF: Final = 42
_SO_COOKIE: Final = 57
_INFO_BYTES: Final = 240
_WINDOW = struct.Struct("=5I")  # struct tcp_repair_window
_TCP_ZEROCOPY_RECEIVE: Final = 35
_ZEROCOPY = struct.Struct(
    "=QIII"
)  # of struct tcp_zerocopy_receive: address, length, what to skip, what there is
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
    """What TCP_INFO says of a connection."""

    state: int
    options: int
    scales: int
    acknowledged: int
    received: int
    windows: tuple[int, ...]  # send and receive; none from a kernel before 6.2

    @classmethod
    def parse(cls, data: bytes) -> "_Info":
        acknowledged, received = struct.unpack_from("=QQ", data, 120)
        windows = struct.unpack_from("=II", data, 228) if len(data) >= 236 else ()
        return cls(data[0], data[5], data[6], acknowledged, received, windows)

    @classmethod
    def of(cls, view: socket.socket) -> "_Info":
        return cls.parse(view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO_BYTES))


class _Base(NamedTuple):
    """Sequence numbers where both counters are 0, and what stays as long as the connection."""

    sent: int
    received: int
    segment_bytes: int
    window: tuple[int, ...]


class _Written(NamedTuple):
    """`end`: the sequence number behind the bytes, without a FIN."""

    data: bytes
    unsent_bytes: int
    end: int


class TcpSight(NamedTuple):
    """What was seen of one TCP socket. `info`: TCP_INFO. `unread`: received and not read, at that instant.

    `base`: of a connection. `written`: what the other end has not confirmed, None when it has everything.
    `is_before_mark`: more has been received, behind the place of an urgent byte.
    """

    info: bytes
    outgoing_bytes: int
    unread_bytes: int
    unread: bytes
    timestamp: int
    base: _Base | None
    written: _Written | None
    is_before_mark: bool

    @property
    def state(self) -> int:
        return self.info[0]

    @property
    def backlog(self) -> tuple[int, int]:
        """(waiting, at most) of a listener: struct tcp_info has both as `unacked`, `sacked` (net/ipv4/tcp.c)."""
        waiting, most = struct.unpack_from("=II", self.info, 24)
        return waiting, most

    @property
    def acknowledged_bytes(self) -> int:
        """tcpi_bytes_acked: the SYN counts as one."""
        return _Info.parse(self.info).acknowledged

    @property
    def segments_in(self) -> int:
        """tcpi_segs_in."""
        return int(struct.unpack_from("=I", self.info, 140)[0])

    @property
    def never_was_connected(self) -> bool:
        """Whether it has sent, but agreed on nothing: no option, no byte in either direction, its SYN least of all."""
        info, (segments_out,) = _Info.parse(self.info), struct.unpack_from("=I", self.info, 136)
        return segments_out > 0 and not (info.options or info.acknowledged or info.received)


Bases = dict[bytes, _Base]  # by SO_COOKIE


class Glance:
    """TCP sockets of a process, to be looked at again and again. `bases`: of their connections, as far as known."""

    def __init__(self, process: CapturedProcess, descriptors: Sequence[int], bases: Bases) -> None:
        self._borrowing = Borrowing(process, descriptors)
        self._sheet = _Sheet(len(descriptors))
        self._bases = bases

    def look(self) -> list[TcpSight]:
        """A sight of each, in order. Raises TaskDiedError, OSError."""
        with self._borrowing.borrowed() as ours:
            return self._sheet.look(ours, self._bases)


def look_at(descriptors: Sequence[int], bases: Bases) -> list[TcpSight]:
    """A sight of each of our own descriptors."""
    return _Sheet(len(descriptors)).look(np.array(descriptors, np.int64), bases)


# Of struct tcp_info, what `_Info` is made of.
_TOLD: Final = [0, 5, 6, *range(120, 136), *range(228, 236)]


class _Sheet:
    """The calls for so many sockets, made once; descriptors are filled in at each look.

    All send queues before the first receive queue: what arrives in between is there twice at most, which TCP sorts out.
    """

    def __init__(self, count: int) -> None:
        self._count = count
        self._numbers = np.zeros((3, count), np.int32)  # outgoing, unread, timestamp
        self._names = np.zeros((count, 128), np.uint8)
        self._cookies = np.zeros(count, np.uint64)
        self._infos = np.zeros((2, count, _INFO_BYTES), np.uint8)
        self._lengths = np.zeros((5, count), np.int32)
        self._sizes = np.array([[128], [8], [_INFO_BYTES], [4], [_INFO_BYTES]], np.int32)
        outgoing, unread, stamps = (one.ctypes.data for one in self._numbers)
        before, after = (one.ctypes.data for one in self._infos)
        name, cookie, first, stamp, second = (one.ctypes.data for one in self._lengths)
        tcp, rows = socket.IPPROTO_TCP, range(count)
        names, cookies = self._names.ctypes.data, self._cookies.ctypes.data
        self._sending = CallTable(
            [("ioctl", (0, _SIOCOUTQ, outgoing + 4 * row)) for row in rows]
            + [("getpeername", (0, names + 128 * row, name + 4 * row)) for row in rows]
            + [("getsockopt", (0, socket.SOL_SOCKET, _SO_COOKIE, cookies + 8 * row, cookie + 4 * row)) for row in rows]
        )  # fmt: skip
        receiving: list[tuple[str, tuple[int, ...]]] = []
        for row in rows:
            receiving += [
                ("getsockopt", (0, tcp, socket.TCP_INFO, before + _INFO_BYTES * row, first + 4 * row)),
                ("ioctl", (0, _SIOCINQ, unread + 4 * row)),
                ("getsockopt", (0, tcp, _TCP_TIMESTAMP, stamps + 4 * row, stamp + 4 * row)),
                ("getsockopt", (0, tcp, socket.TCP_INFO, after + _INFO_BYTES * row, second + 4 * row)),
            ]  # fmt: skip
        self._receiving = CallTable(receiving)

    def look(self, descriptors: NDArray[np.int64], bases: Bases) -> list[TcpSight]:
        """A sight of each."""
        fds: list[int] = descriptors.tolist()
        is_connected, found = self._look_at_sending(descriptors)
        cookies = [one.tobytes() for one in self._cookies]
        own = [cookies[place] if is_connected[place] else b"" for place in range(self._count)]
        _learn_new(fds, own, bases)
        outgoing = found.tolist()
        written = _written(
            [fd for fd, count, one in zip(fds, outgoing, own, strict=True) if count and one]
        )
        self._look_at_receiving(descriptors)
        unread, stamps = self._numbers[1].tolist(), self._numbers[2].tolist()
        infos, lengths = self._infos[1], self._lengths[4].tolist()
        return [
            TcpSight(
                infos[place, : lengths[place]].tobytes(),
                outgoing[place],
                unread[place],
                _unread(fd, unread[place]),
                stamps[place] % WRAP,
                bases.get(own[place]),
                written.get(fd),
                unread[place] > 0 and _is_before_mark(fd, unread[place], infos[place, 0]),
            )
            for place, fd in enumerate(fds)
        ]

    def _look_at_sending(
        self, descriptors: NDArray[np.int64]
    ) -> tuple[list[bool], NDArray[np.int32]]:
        """Which are connected, and how many bytes of each are not confirmed."""
        self._lengths[:] = self._sizes
        self._numbers[:] = 0
        self._sending.arguments[:, 0] = np.tile(descriptors, 3)
        self._sending.make()
        return (self._sending.results[self._count : 2 * self._count] >= 0).tolist(), self._numbers[
            0
        ].copy()

    def _look_at_receiving(self, descriptors: NDArray[np.int64]) -> None:
        """One socket after the other; those that got data meanwhile once more."""
        self._lengths[:] = self._sizes
        self._receiving.arguments[:, 0] = np.repeat(descriptors, 4)
        self._receiving.make()
        before, after = self._infos[:, :, _TOLD]
        for place in np.flatnonzero((before != after).any(axis=1)).tolist():
            again = _Sheet(1)
            again._look_at_receiving(descriptors[place : place + 1])
            self._infos[1, place] = again._infos[1, 0]
            self._numbers[1:, place] = again._numbers[1:, 0]


def _unread(fd: int, count: int) -> bytes:
    if not count:
        return b""  # a peek at an empty queue would take a pending error away
    with socket_view(fd) as view:
        peek = socket.MSG_PEEK | socket.MSG_DONTWAIT
        if view.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) < 0:
            return view.recv(count, peek)
        with peek_offset(view, 0):
            return view.recv(count, peek)


def _is_before_mark(fd: int, count: int, state: int) -> bool:
    """Whether SIOCINQ counts but up to an urgent byte's place: what poll(2) tells of one ends when the byte is read.

    TCP_ZEROCOPY_RECEIVE (Linux 4.18) tells how much there is in all, a FIN counted; of less than a page it takes none.
    """
    may_have_ended = state in (TCP_CLOSE_WAIT, TCP_LAST_ACK, TCP_CLOSING, TCP_CLOSE)
    question = bytearray(_ZEROCOPY.pack(_receiving_page(os.getpid()), PAGE_BYTES - 1, 0, 0))
    size = bytearray(struct.pack("=I", _ZEROCOPY.size))
    try:
        syscalls.syscall_on(
            "getsockopt", fd, socket.IPPROTO_TCP, _TCP_ZEROCOPY_RECEIVE, question, size
        )
    except OSError:
        return False  # a kernel without it
    received = int(_ZEROCOPY.unpack(question)[3]) - may_have_ended
    # of what has arrived meanwhile, the second count tells
    return received > count and received > _ioctl(fd, _SIOCINQ)


@lru_cache(maxsize=1)
def _receiving_page(_pid: int) -> int:
    """The address of a page of this process into which TCP could receive; 0 where there is none."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as own:
        try:
            return syscalls.syscall(
                "mmap", 0, PAGE_BYTES, mmap.PROT_READ, mmap.MAP_SHARED, own.fileno(), 0
            )
        except OSError:
            return 0


def _tcp_sights(process: CapturedProcess) -> Mapping[int, TcpSight]:
    fds = [fd for fd, sight in sights_of(process).items() if is_tcp_kind(sight.kind)]
    text = b"%d %r %r" % (process.tid, sockets_of(process), fds)
    bases: Bases = process.memo.of("tcp bases", b"", dict)
    glance = process.memo.of("tcp sockets", text, lambda: Glance(process, fds, bases))
    found = process.looks.meanwhile(("tcp sockets", text), glance.look)
    return dict(zip(fds, found, strict=True))


def tcp_sight_of(file: OpenFile) -> TcpSight:
    """What was seen of a TCP socket."""
    return file.once("tcp sight", lambda: _sight_of(file))


def _sight_of(file: OpenFile) -> TcpSight:
    if isinstance(file, InFlightFile):
        return look_at([file.descriptor], bases_of(file))[0]
    return file.process.once("tcp sights", lambda: _tcp_sights(file.process))[file.fd]


def bases_of(file: OpenFile) -> Bases:
    """Of the connections that are known with its process."""
    bases: Bases = file.process.memo.of("tcp bases", b"", dict)
    return bases


def _ioctl(fd: int, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(fd, request, bytes(4)))[0])


def _learn_new(fds: Sequence[int], cookies: Sequence[bytes], bases: Bases) -> None:
    """The bases of connections (those with a cookie) that are not known yet."""
    new = {
        cookie: fd
        for fd, cookie in zip(fds, cookies, strict=True)
        if cookie and cookie not in bases
    }
    if new:
        numbers = list(new.values())
        found = told_by_child(lambda: [_base(fd) for fd in numbers], list[_Base])
        bases.update(zip(new, found, strict=True))


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


def _written(fds: Sequence[int]) -> Mapping[int, _Written]:
    """By descriptor."""
    if not fds:
        return {}
    found = told_by_child(lambda: [_look_at_queue(fd) for fd in fds], list[_Written])
    return dict(zip(fds, found, strict=True))


def _look_at_queue(fd: int) -> _Written:
    with in_repair(fd) as view:
        end = sequence_of(view, SEND_QUEUE) - has_sent_fin(connection_state(view))
        data = queued_bytes(view)
        return _Written(data, min(len(data), _ioctl(fd, _SIOCOUTQNSD)), end % WRAP)


def endpoint_of(sight: TcpSight) -> TcpEndpoint:
    """The endpoint of a connection."""
    info, base, written = _Info.parse(sight.info), sight.base, sight.written
    assert base is not None
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
        unread_bytes=sight.unread_bytes,
        has_sent_fin=is_shut,
        has_received_fin=has_ended,
        segment_bytes=base.segment_bytes,
        scales=(info.scales & 0xF, info.scales >> 4) if info.options & _SCALED else None,
        has_selective=bool(info.options & _SELECTIVE),
        has_timestamps=bool(info.options & _STAMPED),
        timestamp=sight.timestamp,
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
