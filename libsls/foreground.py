"""Standing in for a process on this terminal: pass signals on, end as it ends.

Knows no partition but its `status` file. Standard library only.
"""

import json
import os
import select
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Final

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


@contextmanager
def forwarding_signals(pid: int) -> Iterator[None]:
    """Whatever signal we get, `pid` gets, unless the terminal sent it to both."""

    def forward(number: int, _frame: FrameType | None) -> None:
        try:
            if os.getpgid(pid) == os.getpgrp():
                if number in (signal.SIGINT, signal.SIGQUIT) and os.isatty(0):
                    return
                os.kill(pid, number)
            elif os.getpgid(pid) == pid:
                os.killpg(pid, number)
            else:
                os.kill(pid, number)
        except ProcessLookupError:
            return  # it just ended; the wait below sees that

    before = {number: signal.signal(number, forward) for number in FORWARDED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def wait_child(pid: int) -> int:
    """The exit status of our own child, as a shell would give it."""
    with forwarding_signals(pid):
        return shell_status(os.waitpid(pid, 0)[1])


def wait_restored(pid: int, status: Path) -> int:
    """The exit status of a restored process, from the partition's `status` file."""
    try:
        watcher = os.pidfd_open(pid)
    except ProcessLookupError:
        return _status_of(pid, status)
    try:
        with forwarding_signals(pid):
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
