"""Numbers of tasks: whether they are free for a restore, who has one that is not, and whether he is about to go.

A session or a process group keeps its leader's number in use as long as anybody is in it.
"""

import os
import signal
import time
from typing import Final

from sls import proc
from sls.errors import RestoreConflictError, TaskDiedError
from sls.image import Image

_LEAVING_S: Final = 3.0  # for one who is killed: to free gigabytes takes a while
_GRACE_S: Final = 0.05  # a killed thread looks alive until it has seen the signal
_MOMENT_S: Final = 0.2  # for a command of a moment: numbers go round
_PAUSE_S: Final = 0.002


def wait_for_numbers(image: Image) -> None:
    """Wait until every pid and tid is free; RestoreConflictError (EEXIST) names one that stays in use."""
    since = time.monotonic()
    for process in image.processes:
        for number in {process.pid, *(thread.tid for thread in process.threads)}:
            while proc.exists(number):
                _reap(number)
                waited = time.monotonic() - since
                if waited > _LEAVING_S or (waited > _GRACE_S and not _is_leaving(number)):
                    raise RestoreConflictError(f"pid {number} is in use by {_describe(number)}")
                time.sleep(_PAUSE_S)


def is_worth_waiting_for(number: int, since: float) -> bool:
    """Whether a number in use may soon be free. Pauses for an instant; whoever ended and is ours is waited for.

    `since`: when it was first asked for, by time.monotonic().
    """
    holder = _holder(number)
    is_leaving = holder > 0 and _is_leaving(holder)
    if holder and proc.has_ended(holder):
        _reap(holder)
    time.sleep(_PAUSE_S)
    return time.monotonic() - since < (_LEAVING_S if is_leaving else _MOMENT_S)


def give_next(number: int) -> None:
    """Who is born next gets that number, if it is free and nobody else is born first."""
    with open("/proc/sys/kernel/ns_last_pid", "wb", buffering=0) as file:
        file.write(b"%d" % (number - 1))


def name(number: int) -> str:
    """Who has the number: a task, or those whose group or session bears it, though its leader is gone."""
    holder = _holder(number)
    try:
        comm = proc.stat(holder).comm.decode(errors="replace")
    except TaskDiedError:
        return "another task"
    if holder == number:
        return comm
    return f"the session or process group of pid {holder}, {comm}"


def _holder(number: int) -> int:
    """A task by whom the number is in use; 0: none."""
    for pid in [number, *proc.pids()]:
        try:
            stat = proc.stat(pid)
        except TaskDiedError:
            continue
        if number in (pid, stat.pgrp, stat.session):
            return pid
    return 0


def _reap(pid: int) -> None:
    """Wait for a child of ours that has ended: its number is free then."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        return  # another one's child


def _is_leaving(pid: int) -> bool:
    """A zombie that its parent has yet to wait for, or a task on its way there."""
    try:
        stat = proc.stat(pid)
        status = proc.status(pid)
    except TaskDiedError:
        return True
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return stat.is_zombie or stat.is_exiting or bool(pending >> signal.SIGKILL - 1 & 1)


def _describe(pid: int) -> str:
    """Who has the number, and what to do."""
    try:
        stat = proc.stat(pid)
    except TaskDiedError:
        return "a task that has just ended; restore again"
    name = stat.comm.decode(errors="replace")
    if stat.is_zombie:
        return f"{name}, which has ended, but its parent, pid {stat.ppid}, has yet to wait for it; end that parent"
    return f"{name}; end it, or restore with `kill`"
