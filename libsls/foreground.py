"""Standing in for a process on this terminal: pass signals on, end as it ends.

Knows no partition but its `status` file. Standard library only.
"""

import json
import os
import select
import signal
import time
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

    Signals that come before `to` wait for it; leaving without it, they take their usual course.
    """

    def __init__(self) -> None:
        self._pid = 0
        self._pending: list[int] = []
        self._handlers: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in FORWARDED:
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
            self._forward(self._pending.pop(0))

    def _take(self, number: int, _frame: FrameType | None) -> None:
        if self._pid:
            self._forward(number)
        else:
            self._pending.append(number)

    def _forward(self, number: int) -> None:
        try:
            group = os.getpgid(self._pid)
            if group == self._pid != os.getpgrp():
                os.killpg(group, number)  # as a terminal does to its foreground group
            elif group != os.getpgrp() or not _is_from_terminal(number):
                os.kill(self._pid, number)
        except ProcessLookupError:
            return  # it has just ended; who waits for it sees that


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
