"""The processor first, for who holds others still; last, for who serves files.

While members stand still, each other program that the tracer has to wait for makes their stop longer, by a time slice
of some milliseconds. So it runs before all ordinary programs then (SCHED_RR, sched(7)), and only then. It never waits
in a loop for what it holds, for that may need the same processor. Children are ordinary (SCHED_RESET_ON_FORK).

A member that is asked to stop has to run once for it, and what it waits for is mostly the daemon, busy with requests
to the mount. Who wakes goes at once before whoever asked for a longer slice than his (the EEVDF scheduler since Linux
6.12, PREEMPT_SHORT in kernel/sched/features.h), so the thread that answers them asks for a longer one: not those that
compress, for a checkpoint took a fifth longer then. Earlier kernels ignore it.
"""

import os
import struct
from types import TracebackType
from typing import Final

from sls import syscalls

_FIRST: Final = os.SCHED_RR | os.SCHED_RESET_ON_FORK
_ORDINARY: Final = os.sched_param(0)
_LONG_SLICE_NS: Final = 6_000_000  # four times the usual one on 2 processors
_SCHED_FLAG_RESET_ON_FORK: Final = 1
_ATTRIBUTES: Final = struct.Struct("=IIQiIQQQ")  # struct sched_attr of SCHED_ATTR_SIZE_VER0


def put_first() -> None:
    """Have the calling thread run first from now on. PermissionError without CAP_SYS_NICE."""
    os.sched_setscheduler(0, _FIRST, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))


class Hurry:
    """A `with` block in which the calling thread runs first; as ever, where that is not allowed (CAP_SYS_NICE)."""

    def __init__(self) -> None:
        self._is_first = False

    def __enter__(self) -> None:
        try:
            put_first()
        except PermissionError:
            return
        self._is_first = True

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._is_first:
            os.sched_setscheduler(0, os.SCHED_OTHER, _ORDINARY)
            self._is_first = False


def give_way() -> None:
    """Have whoever wakes go before the calling thread; see the module. Threads that it starts are as ever.

    A thread that was given another policy, or precedence by its nice value, keeps them.
    """
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    if os.sched_getscheduler(0) != os.SCHED_OTHER or nice < 0:
        return
    attributes = _ATTRIBUTES.pack(
        _ATTRIBUTES.size, os.SCHED_OTHER, _SCHED_FLAG_RESET_ON_FORK, nice, 0, _LONG_SLICE_NS, 0, 0
    )
    syscalls.set_scheduler(0, attributes)
