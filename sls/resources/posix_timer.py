"""POSIX timers, timer_create(2): number, clock, notification, time that is left, period.

/proc/<pid>/timers lists them; what is left is asked inside the process. A number comes back by
PR_TIMER_CREATE_RESTORE_IDS (Linux 6.16), before that by making and deleting timers until it is next. The count of
overruns of the last delivered signal is lost.

Not kept: nothing.
Kernel: Linux 3.10 (/proc/<pid>/timers; CONFIG_CHECKPOINT_RESTORE).
"""

import re
import struct
from collections.abc import Sequence
from typing import Final

import msgspec

from sls.errors import ImageError
from sls.remote import Call, In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)

_ITIMERSPEC = struct.Struct("=4q")
_SIGEVENT = struct.Struct("=Qiii44x")
_PR_TIMER_CREATE_RESTORE_IDS: Final = 77
_NOTIFICATIONS: Final = {b"signal": 0, b"none": 1, b"thread": 2}
_SIGEV_THREAD_ID: Final = 4
_CYCLE_LIMIT: Final = 100_000
_CYCLE_CALLS: Final = 1000
_ENTRY = re.compile(
    rb"ID: (\d+)\nsignal: (\d+)/([0-9a-f]+)\nnotify: (\w+)/(pid|tid)\.(-?\d+)\nClockID: (-?\d+)\n"
)


class PosixTimer(Record, frozen=True):
    """One timer. `thread_id` is 0 unless a thread is notified; times are 0 when it is not armed."""

    number: int
    clock: int
    signal: int
    value: int
    notification: int
    thread_id: int
    interval_ns: int
    left_ns: int


class PosixTimersRecord(ProcessRecord, frozen=True, tag="posix-timers"):
    """All timers of one process, by number."""

    timers: tuple[PosixTimer, ...]


class PosixTimers(ProcessState[PosixTimersRecord]):
    """Timers with numbers."""

    stage = Stage.RESUME
    record = PosixTimersRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[PosixTimersRecord]:
        entries = [match.groups() for match in _ENTRY.finditer(process.read("timers"))]
        numbers = [int(entry[0]) for entry in entries]
        replies = yield [call("timer_gettime", one, Out(_ITIMERSPEC.size)) for one in numbers]
        overruns = yield [call("timer_getoverrun", number) for number in numbers]
        timers = []
        for entry, reply, overrun in zip(entries, replies, overruns, strict=True):
            reply.check()
            if overrun.value > 0:
                ctx.lose(process.pid, f"timer {int(entry[0])}", f"its {overrun.value} overruns")
            timers.append(_timer(entry, reply.outputs[0]))
        return PosixTimersRecord(timers=tuple(sorted(timers, key=lambda timer: timer.number)))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: PosixTimersRecord
    ) -> Remote[None]:
        if not record.timers:
            return
        (switched,) = yield [call("prctl", _PR_TIMER_CREATE_RESTORE_IDS, 1, 0, 0, 0)]
        timers = [
            msgspec.structs.replace(one, thread_id=process.own_number(one.thread_id))
            if one.thread_id
            else one
            for one in record.timers
        ]
        if switched.failed:
            yield from _cycle(timers)
        else:
            yield from remote_all([_create(timer) for timer in timers])
            yield from remote_all([call("prctl", _PR_TIMER_CREATE_RESTORE_IDS, 0, 0, 0, 0)])
        yield from remote_all([_arm(timer) for timer in record.timers if timer.left_ns])


def _timer(entry: Sequence[bytes], times: bytes) -> PosixTimer:
    number, signal, value, notification, kind, target, clock = entry
    interval_s, interval_ns, left_s, left_ns = _ITIMERSPEC.unpack(times)
    is_thread = kind == b"tid"
    return PosixTimer(
        number=int(number),
        clock=int(clock),
        signal=int(signal),
        value=int(value, 16),
        notification=_NOTIFICATIONS[notification] | (_SIGEV_THREAD_ID if is_thread else 0),
        thread_id=int(target) if is_thread else 0,
        interval_ns=interval_s * 10**9 + interval_ns,
        left_ns=left_s * 10**9 + left_ns,
    )


def _create(timer: PosixTimer) -> Call:
    event = _SIGEVENT.pack(timer.value, timer.signal, timer.notification, timer.thread_id)
    number = Out(4, struct.pack("=i", timer.number))
    return call("timer_create", timer.clock & 0xFFFFFFFF, In(event), number)


def _arm(timer: PosixTimer) -> Call:
    times = (*divmod(timer.interval_ns, 10**9), *divmod(timer.left_ns, 10**9))
    return call("timer_settime", timer.number, 0, In(_ITIMERSPEC.pack(*times)), 0)


def _cycle(timers: Sequence[PosixTimer]) -> Remote[None]:
    """Numbers ascend from 0 in a process that has made no timer yet."""
    if timers[-1].number > _CYCLE_LIMIT:
        raise ImageError(f"timer {timers[-1].number} needs Linux 6.16; restore on such a kernel")
    wanted = {timer.number: timer for timer in timers}
    batch: list[Call] = []
    for number in range(timers[-1].number + 1):
        spare = PosixTimer(
            number=number, clock=1, signal=0, value=0, notification=1, thread_id=0, interval_ns=0, left_ns=0
        )  # fmt: skip
        batch.append(_create(wanted.get(number, spare)))
        if number not in wanted:
            batch.append(call("timer_delete", number))
        if len(batch) >= _CYCLE_CALLS:
            yield from remote_all(batch)
            batch = []
    created = yield from remote_all(batch)
    last = int.from_bytes(created[-1].outputs[0], "little")
    if last != timers[-1].number:
        raise ImageError(f"timer {timers[-1].number} came back as {last}; restore on Linux 6.16")
