"""A process of its own for what traces: ptrace(2) and wait(2) never meet the children of pytest."""

import os
import signal
import subprocess
import time
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from sls import proc, syscalls
from sls.errors import TaskDiedError


def apart(work: Callable[[], object]) -> None:
    """Run `work` in a forked process that may trace; fail the test with what it raises."""
    read_end, write_end = os.pipe()
    pid = start_apart(work, write_end)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        words = pipe.read().decode()
    status = os.waitpid(pid, 0)[1]
    if words or status:
        pytest.fail(words or f"status {status}", pytrace=False)


def start_apart(work: Callable[[], object], report: int = 2) -> int:
    """The forked process alone; it writes a traceback to `report`. The caller waits for it."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        syscalls.become_tracer()
        work()
        status = 0
    except BaseException:  # noqa: BLE001  # whatever it is, the parent shows it
        os.write(report, traceback.format_exc().encode())
    finally:
        os._exit(status)


class Program:
    """A program that runs while it is worked on; ended with what it made. `lines` are those of its output."""

    def __init__(self, command: Sequence[str], directory: Path) -> None:
        self.output = directory / "output"
        with open(self.output, "wb") as output:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, start_new_session=True, cwd=directory
            )  # fmt: skip
        self.pid = self.process.pid

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        for pid in self.tree():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        self.process.wait()

    def tree(self) -> list[int]:
        """It and what is below it."""
        return [self.pid, *proc.descendants(self.pid)]

    def lines(self) -> list[str]:
        """Whole lines so far."""
        return self.output.read_text().split("\n")[:-1]

    def is_stopped(self) -> bool:
        """Whether any of its threads is stopped, by a signal or a tracer."""
        for pid in self.tree():
            try:
                if any(proc.stat(tid).state in "Tt" for tid in proc.entries(pid, "task")):
                    return True
            except TaskDiedError:
                continue
        return False

    def wait_progress(self, lines: int = 2) -> None:
        """Return when it has written more; fail after half a minute."""
        wanted = len(self.lines()) + lines
        deadline = time.monotonic() + 30.0
        while len(self.lines()) < wanted:
            assert not proc.stat(self.pid).is_zombie, "it has ended"
            assert time.monotonic() < deadline, "it does not go on"
            time.sleep(0.0005)
