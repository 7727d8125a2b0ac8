"""What getsockopt(2) and its like tell of sockets, all those of a process seen in one go.

A *sight* is raw. It is a look (`sls.observations`), made while the process stands still; what it means is read from it
when a record is made. Fifty sockets are five thousand answers, which take 1 ms, and 3 ms if each is asked for alone.

Not a resource of its own: part of the records of each kind of socket.
"""

import errno
import select
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, lru_cache
from itertools import accumulate
from typing import Any, Final, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from sls import syscalls
from sls.resources.base import CaptureContext, CapturedProcess, InFlightFile, OpenFile
from sls.resources.borrowing import Borrowing
from sls.resources.socket_options import (
    SO_ATTACH_FILTER,
    SO_LOCK_FILTER,
    SocketKind,
    SocketOption,
    is_changed_by_restore,
    is_socket,
    options_of,
)
from sls.syscalls import CallTable

_SO_TYPE, _SO_PROTOCOL, _SO_DOMAIN = 3, 38, 39
_SO_NETNS_COOKIE, _SO_COOKIE = 71, 57
_TCP_ULP: Final = 31
_LENGTH, _RESULT = struct.Struct("=i"), struct.Struct("=q")
_NAME_BYTES: Final = 128  # a sockaddr and some
T = TypeVar("T")

Question = tuple[int, int, int]  # level, number, bytes of the answer
_HEAD: Final[tuple[Question, ...]] = (
    (socket.SOL_SOCKET, _SO_DOMAIN, 4),
    (socket.SOL_SOCKET, _SO_TYPE, 4),
    (socket.SOL_SOCKET, _SO_PROTOCOL, 4),
    (socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8),
    (socket.SOL_SOCKET, _SO_COOKIE, 8),
    (socket.SOL_SOCKET, socket.SO_ACCEPTCONN, 4),
    (socket.SOL_SOCKET, SO_LOCK_FILTER, 4),
    (socket.IPPROTO_TCP, _TCP_ULP, 16),
    (socket.SOL_SOCKET, socket.SO_RCVBUF, 4),
)
_TAIL_CALLS: Final = ("getsockname", "getpeername")


class Questions:
    """What is asked of a socket, and where in the room for its answers each of them begins.

    `lasting`: so many come first; the others are the kernel's own once there is a connection.
    """

    def __init__(self, kind: SocketKind | None) -> None:
        always = options_of(kind, is_connected=True) if kind else ()
        options = options_of(kind, is_connected=False) if kind else ()
        self.lasting = len(_HEAD) + len(always)
        self.asked = (*_HEAD, *always, *(one for one in options if one not in always))
        sizes = [size + 7 & ~7 for *_, size in self.asked] + [_NAME_BYTES] * len(_TAIL_CALLS)
        self.starts = [0, *accumulate(sizes)]

    @property
    def room_bytes(self) -> int:
        return self.starts[-1]

    def answer(self, raw: "_Raw", place: int, first: int = 0) -> bytes | None:
        """What was answered there, None for a failure. `first`: the place that `raw` begins with."""
        row = place - first
        if _RESULT.unpack_from(raw.results, row * _RESULT.size)[0] < 0:
            return None
        start = self.starts[place] - self.starts[first]
        length = _LENGTH.unpack_from(raw.lengths, row * _LENGTH.size)[0]
        return raw.answers[start : start + length]

    def of_connection(self, raw: "_Raw") -> tuple[bytes, ...]:
        """The answers that come first, and the names."""
        first, names = self.lasting, len(self.asked)
        return (
            raw.answers[: self.starts[first]],
            raw.lengths[: first * _LENGTH.size],
            raw.results[: first * _RESULT.size],
            raw.answers[self.starts[names] :],
            raw.lengths[names * _LENGTH.size :],
            raw.results[names * _RESULT.size :],
        )


class Sight:
    """One socket as it was seen. It is used again for the next look that gives the same answers.

    `events`: of poll(2). `filter`: its classic BPF program, None for an extended one. `network` and `cookie` tell its
    network namespace, and itself, from others. `local`, `remote`: sockaddr, the latter None when there is none.
    """

    def __init__(self, questions: Questions, raw: "_Raw") -> None:
        self._questions = questions
        self._raw = raw
        self._differing: dict[bool, tuple[bytes, tuple[SocketOption, ...]]] = {}
        self._facts: dict[str, Any] = {}
        self.events = 0
        self.filter: bytes | None = b""
        self.kind = SocketKind(self._number(0), self._number(1), self._number(2))
        self.network = self._answer(3) or b""
        self.cookie = self._answer(4) or b""
        self.is_listening = bool(self._number(5))
        self.is_filter_locked = bool(self._number(6))
        self.upper_protocol = (self._answer(7) or b"").rstrip(b"\0")  # TCP_ULP
        self.receive_buffer_bytes = self._number(8)
        self.local = self._answer(len(questions.asked)) or b""
        self.remote = self._answer(len(questions.asked) + 1)

    def _answer(self, place: int) -> bytes | None:
        return self._questions.answer(self._raw, place)

    def _number(self, place: int) -> int:
        return int(_LENGTH.unpack(self._answer(place) or bytes(4))[0])

    def is_still(self, raw: "_Raw") -> bool:
        """Whether these answers are the same, but for what changes by itself once there is a connection."""
        if raw == self._raw:
            return True
        if self.remote is None:
            return False
        return self._questions.of_connection(raw) == self._questions.of_connection(self._raw)

    def once(self, name: str, make: Callable[[], T]) -> T:
        """What follows from kind, addresses and size of the buffer alone: made once for as long as they stay."""
        found: T | None = self._facts.get(name)
        if found is None:
            found = self._facts[name] = make()
        return found

    def differing(
        self, usual: "_Usual", usual_text: bytes, *, is_connected: bool
    ) -> tuple[SocketOption, ...]:
        """The options that are not as usual."""
        known = self._differing.get(is_connected)
        if known is None or known[0] != usual_text:
            known = self._differing[is_connected] = usual_text, tuple(self._unusual(usual))
        return known[1]

    def _unusual(self, usual: "_Usual") -> Iterator[SocketOption]:
        answers = {
            question[:2]: self._answer(place)
            for place, question in enumerate(self._questions.asked)
        }
        for (level, number, _), value in usual:
            current = answers.get((level, number))
            if current is not None and current != value:
                yield SocketOption(level=level, number=number, value=current)


class _Raw(NamedTuple):
    """All that was answered about one socket."""

    answers: bytes
    lengths: bytes
    results: bytes


@cache
def _questions_of(kind: SocketKind | None) -> Questions:
    return Questions(kind)


class _Sheet:
    """The calls for sockets of known kinds, made once; descriptors are filled in at each look."""

    def __init__(self, kinds: Sequence[SocketKind | None]) -> None:
        self._questions = [_questions_of(kind) for kind in kinds]
        self._rooms = [0, *accumulate(one.room_bytes for one in self._questions)]
        counts = [len(one.asked) + len(_TAIL_CALLS) + 1 for one in self._questions]
        self._rows = [0, *accumulate(counts)]
        self._owners = np.repeat(np.arange(len(kinds)), counts)
        self._answers = np.zeros(self._rooms[-1], np.uint8)
        self._lengths = np.zeros(len(self._owners), np.int32)
        self._polled = np.zeros(
            len(kinds), np.dtype([("fd", "i4"), ("events", "i2"), ("found", "i2")])
        )
        self._polled["events"] = select.POLLIN | select.POLLPRI | select.POLLRDHUP
        rooms = np.array(self._rooms[:-1], np.int64)
        self._kinds = rooms[:, None] + [self._questions[0].starts[place] for place in range(3)]
        self._expected = np.array([kind or (0, 0, 0) for kind in kinds], np.int32).reshape(-1, 3)
        calls: list[tuple[str, Sequence[int]]] = []
        sizes: list[int] = []
        for questions, room in zip(self._questions, self._rooms, strict=False):
            for name, arguments, size in self._calls(questions, self._answers.ctypes.data + room):
                last = self._lengths.ctypes.data + 4 * len(calls)
                calls.append((name, (0, *arguments, last)))
                sizes.append(size)
        calls.append(("poll", (self._polled.ctypes.data, len(kinds), 0)))
        self._sizes = np.array(sizes, np.int32)
        self._table = CallTable(calls)

    @staticmethod
    def _calls(questions: Questions, room: int) -> Iterator[tuple[str, tuple[int, ...], int]]:
        """Name, arguments between the descriptor and the length's address, room for the answer."""
        where = [room + start for start in questions.starts]
        for (level, number, size), at in zip(questions.asked, where, strict=False):
            yield "getsockopt", (level, number, at), size
        for name, at in zip(_TAIL_CALLS, where[len(questions.asked) :], strict=False):
            yield name, (at,), _NAME_BYTES
        yield "getsockopt", (socket.SOL_SOCKET, SO_ATTACH_FILTER, 0), 0  # its length

    def look(self, descriptors: NDArray[np.int64]) -> "Seen":
        """All answers of each."""
        self._table.arguments[:-1, 0] = descriptors[self._owners]
        self._polled["fd"] = descriptors
        self._lengths[:] = self._sizes
        self._table.make()
        results = self._table.results[:-1]
        last = np.array(self._rows[1:]) - 1
        odd = np.flatnonzero((self._lengths[last] != 0) | (results[last] == -errno.EACCES))
        programs = {place: _filter(int(descriptors[place])) for place in odd.tolist()}
        return Seen(
            self._questions, self._rooms, self._rows, self._answers.tobytes(),
            self._lengths.tobytes(), results.tobytes(), self._polled["found"].tolist(), programs,
        )  # fmt: skip

    def is_met(self) -> bool:
        """Whether the sockets of the last look are of the kinds that were asked about."""
        numbers = self._answers.view(np.int32)[self._kinds // 4]
        return bool((numbers == self._expected).all())


class Seen(NamedTuple):
    """What a look at sockets gave, in their order; made out when it is asked for."""

    questions: Sequence[Questions]
    rooms: Sequence[int]
    rows: Sequence[int]
    answers: bytes
    lengths: bytes
    results: bytes
    events: Sequence[int]
    programs: Mapping[int, bytes | None]

    def raw(self, place: int) -> _Raw:
        """All that was answered about one socket."""
        start, end = self.rows[place], self.rows[place + 1]
        return _Raw(
            self.answers[self.rooms[place] : self.rooms[place + 1]],
            self.lengths[start * _LENGTH.size : end * _LENGTH.size],
            self.results[start * _RESULT.size : end * _RESULT.size],
        )

    def sight(self, place: int, before: Sight | None = None) -> Sight:
        """Of one socket; `before`: of the same one."""
        raw = self.raw(place)
        is_still = before is not None and before.is_still(raw)
        sight = before if before is not None and is_still else Sight(self.questions[place], raw)
        sight.events = self.events[place]
        sight.filter = self.programs.get(place, b"")
        return sight


def _filter(fd: int) -> bytes | None:
    try:
        return syscalls.socket_filter(fd)
    except PermissionError:
        return None


class Glance:
    """The sockets of a process, to be looked at again and again."""

    def __init__(self, process: CapturedProcess, descriptors: Sequence[int]) -> None:
        self._borrowing = Borrowing(process, descriptors)
        self._sheet = _Sheet([None] * len(descriptors))
        self._before: Sequence[Sight | None] = [None] * len(descriptors)

    def sights(self, seen: Seen) -> Sequence[Sight]:
        """Of each socket, in order."""
        found = [seen.sight(place, before) for place, before in enumerate(self._before)]
        self._before = found
        return found

    def look(self) -> Seen:
        """What they answer. Raises TaskDiedError, OSError."""
        with self._borrowing.borrowed() as ours:
            seen, self._sheet = _look(ours, self._sheet)
        return seen


def _look(descriptors: NDArray[np.int64], sheet: _Sheet) -> tuple[Seen, _Sheet]:
    """What was seen, and the sheet of the kinds that the sockets turned out to be of."""
    seen = sheet.look(descriptors)
    while not sheet.is_met():
        sheet = _Sheet([seen.sight(place).kind for place in range(len(descriptors))])
        seen = sheet.look(descriptors)
    return seen, sheet


def sockets_of(process: CapturedProcess) -> tuple[tuple[int, bytes], ...]:
    """Descriptor and link of each socket that the process has, ascending."""
    return process.once(
        "sockets",
        lambda: tuple(
            (fd, target) for fd, target in process.targets.items() if target.startswith(b"socket:[")
        ),
    )


def sights_of(process: CapturedProcess) -> Mapping[int, Sight]:
    """A sight of each socket of a process by its descriptor."""
    return process.once("sights", lambda: _seen(process))


def _seen(process: CapturedProcess) -> dict[int, Sight]:
    sockets = sockets_of(process)
    text = b"%d %r" % (process.tid, sockets)
    glance = process.memo.of("sockets", text, lambda: Glance(process, [fd for fd, _ in sockets]))
    seen = process.looks.meanwhile(("sockets", text), glance.look)
    return {fd: sight for (fd, _), sight in zip(sockets, glance.sights(seen), strict=True)}


def sight_of(file: OpenFile) -> Sight:
    """What was seen of a socket."""
    return file.once("sight", lambda: _sight_of(file))


def _sight_of(file: OpenFile) -> Sight:
    if isinstance(file, InFlightFile):
        seen, _ = _look(np.array([file.descriptor]), _Sheet([None]))
        sight = seen.sight(0)
    else:
        sight = sights_of(file.process)[file.fd]
    file.once("network", lambda: sight.network)
    return sight


def socket_kind(file: OpenFile) -> SocketKind:
    """Family, type and protocol."""
    return sight_of(file).kind


def is_tcp(file: OpenFile) -> bool:
    """Whether the file is a TCP socket over IPv4 or IPv6."""
    if not is_socket(file):
        return False
    return is_tcp_kind(socket_kind(file))


def is_tcp_kind(kind: SocketKind) -> bool:
    """Whether such a socket is one of TCP over IPv4 or IPv6."""
    return (
        kind.domain in (socket.AF_INET, socket.AF_INET6)
        and kind.type == socket.SOCK_STREAM
        and kind.protocol == socket.IPPROTO_TCP
    )


def capture_options(
    ctx: CaptureContext, file: OpenFile, *, is_connected: bool = False
) -> tuple[SocketOption, ...]:
    """Every option in which the socket differs from a fresh one. `is_connected`: but what a connection decides."""
    sight = sight_of(file)
    key = ("options", sight.kind, is_connected)
    usual, usual_text = ctx.once(key, lambda: _usual(sight.kind, is_connected))

    found = sight.differing(usual, usual_text, is_connected=is_connected)
    return (*found, *_filter_options(file, sight))


_Usual = list[tuple[Question, bytes | None]]


def _usual(kind: SocketKind, is_connected: bool) -> tuple[_Usual, bytes]:
    """What a socket of that kind has that nobody has touched, and all that was answered about its options."""
    with socket.socket(*kind) as fresh:
        raw = _fresh_sheet(kind).look(np.array([fresh.fileno()])).raw(0)
    questions, head = _questions_of(kind), len(_HEAD)
    text = _Raw(
        raw.answers[questions.starts[head] :],
        raw.lengths[head * _LENGTH.size :],
        raw.results[head * _RESULT.size :],
    )
    return _usual_values(kind, is_connected, text), b"".join(text)


@cache
def _fresh_sheet(kind: SocketKind) -> _Sheet:
    return _Sheet([kind])


@lru_cache(maxsize=64)
def _usual_values(kind: SocketKind, is_connected: bool, text: "_Raw") -> _Usual:
    questions, head = _questions_of(kind), len(_HEAD)
    return [
        (option, None if is_changed_by_restore(option) else value)
        for option in options_of(kind, is_connected=is_connected)
        if (value := questions.answer(text, questions.asked.index(option, head), head)) is not None
    ]


def _filter_options(file: OpenFile, sight: Sight) -> Iterator[SocketOption]:
    if sight.filter is None:
        raise file.unsupported(
            "an extended BPF filter on a socket cannot be read back; detach it before the checkpoint"
        )
    if sight.filter:
        yield _socket_option(SO_ATTACH_FILTER, sight.filter)
    if sight.is_filter_locked:
        yield _socket_option(SO_LOCK_FILTER, struct.pack("=i", 1))


def _socket_option(number: int, value: bytes) -> SocketOption:
    return SocketOption(level=socket.SOL_SOCKET, number=number, value=value)
