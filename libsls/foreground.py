"""Standing in for a process on this terminal: pass signals on, end as it ends.

Knows no partition but its `status` file. Standard library only.
"""

import json
import os
import select
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any, Final, Self

FORWARDED: Final = (
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGHUP,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGWINCH,
    signal.SIGCONT,
)
# The daemon learns of an exit a little after the kernel does.
STATUS_SECONDS: Final = 2.0
UNKNOWN: Final = 1


class Forwarder:
    """While entered, whatever signal we get goes to the process told by `to`.

    Signals that come before `to` wait for it; leaving without it, they take their usual course. At SIGTSTP
    `members` stop with us, and go on with us: one job to the shell, though the terminal knows of us alone.
    """

    def __init__(self, members: Callable[[], Sequence[int]]) -> None:
        self._members = members
        self._pid = 0
        self._pending: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in (*FORWARDED, signal.SIGTSTP):
            self._handlers[number] = signal.signal(number, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        for number in self._pending:
            signal.raise_signal(number)

    def to(self, pid: int) -> None:
        """The process that signals are for, those that came already first."""
        self._pid = pid
        while self._pending:
            self._act(self._pending.pop(0))

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._pid:
            self._act(number)
        else:
            self._pending.append(number)

    def _act(self, number: int) -> None:
        if number == signal.SIGTSTP:
            self._suspend()
        else:
            self._forward(number)

    def _suspend(self) -> None:
        """Stop the members, then ourselves until the shell wants us to go on."""
        stopped = self._stop_members()
        signal.signal(signal.SIGTSTP, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTSTP)
        signal.signal(signal.SIGTSTP, self._take)
        for pid in stopped:
            _send(pid, signal.SIGCONT)

    def _stop_members(self) -> list[int]:
        """SIGSTOP to all: SIGTSTP stops nobody in a group that has no shell. A child of ours gets the terminal's."""
        stopped: list[int] = []
        if _group_of(self._pid) == os.getpgrp():
            return stopped
        while new := [pid for pid in self._members() if pid not in stopped]:
            for pid in new:
                _send(pid, signal.SIGSTOP)
            stopped += new
        return stopped

    def _forward(self, number: int) -> None:
        group = _group_of(self._pid)
        if group == self._pid != os.getpgrp():
            _send(-group, number)  # as a terminal does to its foreground group
        elif group != os.getpgrp() or not _is_from_terminal(number):
            _send(self._pid, number)


def _group_of(pid: int) -> int:
    """The process group; 0 for a process that has ended."""
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return 0


def _send(pid: int, number: int) -> None:
    """A signal to a process or, below 0, a group, which may have just ended: who waits for it sees that."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _is_from_terminal(number: int) -> bool:
    """Whether the terminal sent it, and so to our whole group, not to us alone."""
    return number in (signal.SIGINT, signal.SIGQUIT) and os.isatty(0)


def wait_child(pid: int) -> int:
    """The exit status of our own child, as a shell would give it."""
    return shell_status(os.waitpid(pid, 0)[1])


def wait_restored(pid: int, status: Path) -> int:
    """The exit status of a restored process, from the partition's `status` file."""
    try:
        watcher = os.pidfd_open(pid)
    except ProcessLookupError:
        return _status_of(pid, status)
    try:
        poller = select.poll()
        poller.register(watcher, select.POLLIN)
        poller.poll()
    finally:
        os.close(watcher)
    return _status_of(pid, status)


def _status_of(pid: int, status: Path) -> int:
    deadline = time.monotonic() + STATUS_SECONDS
    with status.open("rb", buffering=0) as file:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        while (left := deadline - time.monotonic()) > 0:
            exits = json.loads(os.pread(file.fileno(), 1 << 20, 0)).get("exits", {})
            if str(pid) in exits:
                return shell_status(int(exits[str(pid)]))
            poller.poll(left * 1000)
    return UNKNOWN


def shell_status(wait_status: int) -> int:
    """A wait status as a shell's $?: the exit code, or 128 and the signal's number."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
