"""Ends the deadlock of a tracer and an execve(2): who has ended is waited for by a second thread.

A thread that calls execve(2) has all others of its process killed, and waits until they are gone; a traced one is gone
when its tracer has waited for it. Meanwhile it holds a lock (`cred_guard_mutex`, kernel/ptrace.c) that PTRACE_SEIZE of
another of these threads waits for. So the tracer, which has one of them already, would wait for ever. Any thread of the
tracer's process may wait for its tracees: this one does when the tracer has not come back in time. A timer wakes it;
else it costs nothing.
"""

import os
import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from typing import Final

from sls import syscalls

_PATIENCE_NS: Final = 100_000_000
_AGAIN_NS: Final = 20_000_000


class ExecReaper:
    """Waits for ended tracees while `watch` holds. Threads of one process; the tracing thread calls both methods."""

    def __init__(self) -> None:
        self._timer = syscalls.timerfd_create(time.CLOCK_MONOTONIC, os.O_CLOEXEC)
        self._tids: Iterable[int] = ()
        threading.Thread(target=self._run, name="exec reaper", daemon=True).start()

    def watch(self, tids: Iterable[int]) -> None:
        """Wait for those of `tids` (a live view of them) that have ended, from a tenth of a second on."""
        self._tids = tids
        syscalls.timerfd_settime(self._timer, 0, _AGAIN_NS, _PATIENCE_NS)

    def rest(self) -> None:
        """Until the next `watch`."""
        syscalls.timerfd_settime(self._timer, 0, 0, 0)
        self._tids = ()

    def _run(self) -> None:
        while os.read(self._timer, 8):
            for tid in tuple(self._tids):
                with suppress(ChildProcessError):
                    os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | syscalls.WALL)


_reapers: dict[int, ExecReaper] = {}  # of this process: threads do not survive a fork


def exec_reaper() -> ExecReaper:
    """The one of this process."""
    pid = os.getpid()
    if pid not in _reapers:
        _reapers.clear()
        _reapers[pid] = ExecReaper()
    return _reapers[pid]
