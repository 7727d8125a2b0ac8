"""epoll(7): interest lists. An entry names an open file description *and* the number it was registered under.

So entries are added under their old numbers, also when that number was closed or means another file by now. Entries
whose number still is the file are added by the process itself, for a signalfd reports to whoever registered it; the
others by this process, which lends them the number for the moment. Sources: fs/eventpoll.c, kcmp(2).

Not kept: busy polling (EPIOCSPARAMS); an entry whose file is closed everywhere is refused.
Kernel: Linux 4.13 (KCMP_EPOLL_TFD).
"""

import os
import re
import select
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import numpy as np

from sls import syscalls
from sls.remote import In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    InFlightFile,
    OpenFile,
    Record,
    RestoreContext,
    RestoredProcess,
)
from sls.resources.borrowing import Borrowing
from sls.syscalls import KCMP_EPOLL_TFD, KCMP_EQUAL, CallTable

_ENTRY: Final = re.compile(r"tfd:\s*(\d+) events:\s*([0-9a-f]+) data:\s*([0-9a-f]+)")
_EVENT = struct.Struct("=IQ")  # struct epoll_event is packed on x86-64
_EPOLL_CTL_ADD: Final = 1
_PRIVATE_BITS: Final = select.EPOLLET | select.EPOLLONESHOT | select.EPOLLEXCLUSIVE | 1 << 29
_WAIT_EVENTS: Final = 1024


class EpollEntry(Record, frozen=True):
    """One registration. `is_direct`: the first holder of the epoll has the target under `number`."""

    number: int
    events: int
    data: int
    target_id: int
    is_direct: bool

    @property
    def is_disabled(self) -> bool:
        """EPOLLONESHOT that has fired: only the private bits are left."""
        return not self.events & ~_PRIVATE_BITS


class EpollRecord(FileRecord, frozen=True, tag="epoll"):
    """One epoll instance. `is_ready`: it had an event to report."""

    entries: tuple[EpollEntry, ...]
    is_ready: bool


class Epoll(FileType[EpollRecord]):
    """Interest lists, nested ones too."""

    record = EpollRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target == b"anon_inode:[eventpoll]"

    def can_wait(self, file: OpenFile) -> bool:
        return file.process.memo.of(_can_wait(file), b"", lambda: False)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> EpollRecord:
        seen = _seen(file)
        file.process.memo.put(_can_wait(file), b"", all(seen.is_likely))
        return EpollRecord(
            file_id=file.file_id,
            flags=file.flags,
            entries=tuple(_entries(ctx, file, seen)),
            is_ready=seen.is_ready,
        )

    def restore(self, ctx: RestoreContext, record: EpollRecord) -> int:
        return syscalls.syscall("epoll_create1", os.O_CLOEXEC)

    def link(
        self, ctx: RestoreContext, record: EpollRecord, process: RestoredProcess, fd: int
    ) -> Remote[None]:
        """What was seen before the checkpoint is not reported again: it is registered first, and waited for once."""
        seen = [one for one in record.entries if _was_reported(record, one)]
        fresh = [one for one in record.entries if not _was_reported(record, one)]
        epoll = ctx.descriptor(record.file_id)
        for part in (seen, fresh):
            for entry in part:
                if not entry.is_direct:
                    _register_lent(ctx, epoll, entry)
            calls = [
                call("epoll_ctl", fd, _EPOLL_CTL_ADD, one.number, In(_EVENT.pack(one.events, one.data)))
                for one in part
                if one.is_direct
            ]  # fmt: skip
            if part is seen and seen:
                count = min(len(seen), _WAIT_EVENTS)
                calls += [
                    call("epoll_wait", fd, Out(_EVENT.size * count), count, 0)
                    for _ in range(0, len(seen), count)
                ]
            yield from remote_all(calls)


# --- capture --------------------------------------------------------------------------------------------------------


class _Listed(NamedTuple):
    """A line of fdinfo. `nth`: there are that many entries of this number before it."""

    number: int
    nth: int
    events: int
    data: int


class _Seen(NamedTuple):
    """`is_likely`: of each entry, whether it is for what has its number now."""

    listed: Sequence[_Listed]
    is_likely: Sequence[bool]
    is_ready: bool


class _Glance:
    """Entries of an epoll, to be looked at again and again."""

    def __init__(self, file: OpenFile, listed: Sequence[_Listed]) -> None:
        self._borrowing = Borrowing(file.process, [file.fd])
        slots = [(file.fd, one.number, one.nth) for one in listed]
        self._slots = np.array(slots, np.uint32).reshape(-1, 3)  # struct kcmp_epoll_slot
        where = self._slots.ctypes.data
        self._table = CallTable(
            [
                ("kcmp", (file.pid, file.pid, KCMP_EPOLL_TFD, one.number, where + 12 * row))
                for row, one in enumerate(listed)
            ]
        )

    def look(self) -> tuple[list[bool], bool]:
        """(which entries are for what has their number now, whether there is an event). TaskDiedError, OSError."""
        self._table.make()
        with self._borrowing.borrowed() as ours:
            is_ready = _is_ready(int(ours[0]))
        return (self._table.results == KCMP_EQUAL).tolist(), is_ready


def _can_wait(file: OpenFile) -> str:
    return f"epoll {file.fd} can wait"


def _seen(file: OpenFile) -> _Seen:
    listed = list(_listed(file))
    if isinstance(file, InFlightFile):
        likely = [
            syscalls.is_epoll_target(
                (file.pid, file.fd), (file.pid, one.number), one.number, one.nth
            )
            for one in listed
        ]
        return _Seen(listed, likely, _is_ready(file.descriptor))
    text = b"%d %r" % (file.pid, [one[:2] for one in listed])
    glance = file.process.memo.of(f"epoll {file.fd}", text, lambda: _Glance(file, listed))
    return _Seen(listed, *file.process.looks.meanwhile(("epoll", file.fd, text), glance.look))


def _listed(file: OpenFile) -> Iterator[_Listed]:
    counts: dict[int, int] = {}
    for line in file.info.lines("tfd:"):
        found = _ENTRY.match(line)
        assert found is not None, f"fdinfo of an epoll reads {line!r}"
        number = int(found[1])
        nth = counts.get(number, 0)
        counts[number] = nth + 1
        yield _Listed(number, nth, int(found[2], 16), int(found[3], 16))


def _entries(ctx: CaptureContext, file: OpenFile, seen: _Seen) -> Iterator[EpollEntry]:
    for one, is_likely in zip(seen.listed, seen.is_likely, strict=True):
        likely = ctx.descriptors.get((file.process.pid, one.number))
        target_id = likely if is_likely and likely is not None else _target(ctx, file, one)
        if target_id is None:
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                f"an epoll entry for a file that no process of the partition holds (it was descriptor {one.number})",
            )
            continue
        yield EpollEntry(
            number=one.number,
            events=one.events,
            data=one.data,
            target_id=target_id,
            is_direct=likely == target_id,
        )


def _target(ctx: CaptureContext, file: OpenFile, one: _Listed) -> int | None:
    """The description behind an entry that is not for what has its number now."""
    file.process.looks.must_be_at_rest("an epoll entry")
    for other in ctx.files.values():
        where = (other.pid, other.fd)
        if syscalls.is_epoll_target((file.pid, file.fd), where, one.number, one.nth):
            return other.file_id
    return None


def _is_ready(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


# --- restore --------------------------------------------------------------------------------------------------------


def _was_reported(record: EpollRecord, entry: EpollEntry) -> bool:
    """An edge that is over, or a one-shot entry that has fired."""
    return entry.is_disabled or bool(entry.events & select.EPOLLET and not record.is_ready)


def _register_lent(ctx: RestoreContext, epoll: int, entry: EpollEntry) -> None:
    with _lent(ctx.descriptor(entry.target_id), entry.number):
        buffer = _EVENT.pack(entry.events, entry.data)
        syscalls.epoll_add(epoll, entry.number, buffer)


@contextmanager
def _lent(fd: int, number: int) -> Iterator[None]:
    """Let `number` mean the file of `fd` for a moment, in this single-threaded process."""
    try:
        aside = os.dup(number)
    except OSError:
        aside = -1
    os.dup2(fd, number, inheritable=False)
    try:
        yield
    finally:
        os.close(number)
        if aside >= 0:
            os.dup2(aside, number, inheritable=False)
            os.close(aside)
