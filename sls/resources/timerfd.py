"""timerfd_create(2): clock, period, time until the next expiration, expirations that wait to be read.

A relative timer goes on with the time it had left. An absolute one keeps its instant: of the wall clock always, of
the monotonic clocks within one boot, for the program compares it with clocks that went on meanwhile.

Not kept: a cancelled one's pending ECANCELED.
Kernel: Linux 3.17 (fdinfo, TFD_IOC_SET_TICKS; CONFIG_CHECKPOINT_RESTORE).
"""

import errno
import re
import time
from typing import Final

from sls import proc, syscalls
from sls.remote import Remote
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    RestoreContext,
    RestoredProcess,
)
from sls.syscalls import TFD_TIMER_ABSTIME

# The ALARM clocks of timerfd_create(2) tell the time of these.
_TELLING: Final = {8: time.CLOCK_REALTIME, 9: time.CLOCK_BOOTTIME}
_WALL_CLOCKS: Final = (time.CLOCK_REALTIME, 8)
_CREATION_FLAGS: Final = 0o2004000  # TFD_CLOEXEC, TFD_NONBLOCK


class TimerfdRecord(FileRecord, frozen=True, tag="timerfd"):
    """One timer. `left_ns` 0 means disarmed; `expires_ns`: on the timer's clock, for an absolute one."""

    clock: int
    settime_flags: int
    interval_ns: int
    left_ns: int
    expires_ns: int
    ticks: int


class Timerfd(FileType[TimerfdRecord]):
    """Timers that are read."""

    record = TimerfdRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target == b"anon_inode:[timerfd]"

    def capture(self, ctx: CaptureContext, file: OpenFile) -> TimerfdRecord:
        # Before fdinfo: it counts the expirations of a period that were not counted yet.
        interval_ns, left_ns = syscalls.timerfd_gettime(file.descriptor)
        info = proc.fdinfo(file.pid, file.fd)
        clock = int(info["clockid"])
        return TimerfdRecord(
            file_id=file.file_id,
            flags=file.flags,
            clock=clock,
            settime_flags=int(re.sub(r"\D", "", info["settime flags"]), 8),
            interval_ns=interval_ns,
            left_ns=left_ns,
            expires_ns=_now_ns(clock) + left_ns,
            ticks=int(info["ticks"]),
        )

    def restore(self, ctx: RestoreContext, record: TimerfdRecord) -> int:
        return syscalls.timerfd_create(record.clock, record.flags & _CREATION_FLAGS)

    def link(
        self, ctx: RestoreContext, record: TimerfdRecord, process: RestoredProcess, fd: int
    ) -> Remote[None]:
        """Armed late, so that the time of the restore itself does not count."""
        yield from ()
        timer = ctx.descriptor(record.file_id)
        if record.left_ns:
            keeps_instant = record.clock in _WALL_CLOCKS or ctx.is_same_boot
            if not record.settime_flags & TFD_TIMER_ABSTIME:
                _arm(timer, record.settime_flags, record.interval_ns, record.left_ns)
            elif keeps_instant:
                _arm(timer, record.settime_flags, record.interval_ns, record.expires_ns)
            else:
                expires_ns = _now_ns(record.clock) + record.left_ns
                _arm(timer, record.settime_flags, record.interval_ns, expires_ns)
        if record.ticks:
            _set_ticks(ctx, timer, record)


_arm = syscalls.timerfd_settime


def _now_ns(clock: int) -> int:
    return time.clock_gettime_ns(_TELLING.get(clock, clock))


def _set_ticks(ctx: RestoreContext, timer: int, record: TimerfdRecord) -> None:
    try:
        syscalls.timerfd_set_ticks(timer, record.ticks)
    except OSError as error:
        if error.errno != errno.ENOTTY:
            raise
        ctx.note("timerfd", f"this kernel cannot set {record.ticks} expirations; one is reported")
        _arm(timer, 0, record.interval_ns, 1)
