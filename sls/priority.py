"""The processor first, for who holds others still.

While members stand still, each other program that the tracer has to wait for makes their stop longer, by a time slice
of some milliseconds. So it runs before all ordinary programs then (SCHED_RR, sched(7)), and only then. It never waits
in a loop for what it holds, for that may need the same processor. Children are ordinary (SCHED_RESET_ON_FORK).
"""

import os
from types import TracebackType
from typing import Final

_FIRST: Final = os.SCHED_RR | os.SCHED_RESET_ON_FORK
_ORDINARY: Final = os.sched_param(0)


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
