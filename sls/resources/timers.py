"""Interval timers of setitimer(2): real, virtual, profiling. Remaining time and period come back to the microsecond.

A periodic ITIMER_REAL that has gone off stands still until its signal is taken from the queue (kernel/signal.c). Of
such a one no time is left; it is set to go off at once, which adds nothing to a SIGALRM that waits already.

setitimer(2) gives timers of CPU time one clock tick more than it is asked for, which is taken off again.

Not kept: nothing.
Kernel: any.
"""

import struct
import time
from typing import Final

from sls.remote import In, Out, Remote, call, remote_all
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

_ITIMERVAL = struct.Struct("=4q")
_WHICH: Final = (0, 1, 2)  # ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF
_REAL: Final = 0
_TICK_US: Final = round(time.clock_getres(6) * 10**6)  # CLOCK_MONOTONIC_COARSE goes by ticks


class IntervalTimer(Record, frozen=True):
    """struct itimerval of one timer, in microseconds."""

    which: int
    interval_us: int
    value_us: int


class IntervalTimersRecord(ProcessRecord, frozen=True, tag="interval-timers"):
    """The armed ones."""

    timers: tuple[IntervalTimer, ...]


class IntervalTimers(ProcessState[IntervalTimersRecord]):
    """The three interval timers."""

    stage = Stage.RESUME
    record = IntervalTimersRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess
    ) -> Remote[IntervalTimersRecord]:
        replies = yield [call("getitimer", which, Out(_ITIMERVAL.size)) for which in _WHICH]
        timers = []
        for which, reply in zip(_WHICH, replies, strict=True):
            reply.check()
            period_s, period_us, left_s, left_us = _ITIMERVAL.unpack(reply.outputs[0])
            timer = IntervalTimer(
                which=which,
                interval_us=period_s * 10**6 + period_us,
                value_us=left_s * 10**6 + left_us,
            )
            if timer.value_us or timer.interval_us:
                timers.append(timer)
        return IntervalTimersRecord(timers=tuple(timers))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: IntervalTimersRecord
    ) -> Remote[None]:
        yield from remote_all(
            [
                call(
                    "setitimer",
                    timer.which,
                    In(_itimerval(timer)),
                    0,
                )
                for timer in record.timers
            ]
        )


def _itimerval(timer: IntervalTimer) -> bytes:
    value_us = timer.value_us if timer.which == _REAL else timer.value_us - _TICK_US
    return _ITIMERVAL.pack(*divmod(timer.interval_us, 10**6), *divmod(max(1, value_us), 10**6))
