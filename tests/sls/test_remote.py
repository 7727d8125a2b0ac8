"""Calls inside a task, when someone dies in the middle: the program goes on unharmed, nothing stays stopped."""

import os
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from sls import proc, syscalls
from sls.capture import Tracer
from sls.errors import FreezeError, TaskDiedError
from tests.sls.apart import Program, apart, start_apart
from tests.sls.driver import command_of

_PTRACE: Any = vars(syscalls)["_ptrace"]
pytestmark = [pytest.mark.root, pytest.mark.crash, pytest.mark.slow]


class Interceptor:
    """Calls `act` before the ptrace call of a number, counted from 1."""

    def __init__(self, number: int, act: Callable[[], None]) -> None:
        self.count = 0
        self._number = number
        self._act = act
        self._ptrace = _PTRACE
        vars(syscalls)["_ptrace"] = self

    def __call__(self, *arguments: int) -> Any:
        self.count += 1
        if self.count == self._number:
            self._act()
        return self._ptrace(*arguments)


def start(tmp_path: Path, binaries: Path) -> Program:
    program = Program(command_of("ticker.c", binaries), tmp_path)
    program.wait_progress()
    return program


def check_unharmed(program: Program) -> None:
    program.wait_progress()
    assert not program.is_stopped()
    lines = [int(line) for line in program.lines()]
    assert lines == list(range(1, len(lines) + 1))


def wait_reaped(pid: int) -> None:
    """Return when the parent has waited for a child that was killed."""
    deadline = time.monotonic() + 30.0
    with suppress(TaskDiedError):
        while proc.stat(pid).is_zombie:
            assert time.monotonic() < deadline, "its tracer keeps it"
            time.sleep(0.001)


def test_x01_tracer_killed_at_each_ptrace_call(tmp_path: Path, binaries: Path) -> None:
    with start(tmp_path, binaries) as program:

        def capture_until(number: int) -> None:
            Interceptor(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
            Tracer().capture(program.tree, full=True, track=True)

        for number in range(1, 1000):
            pid = start_apart(lambda number=number: capture_until(number))  # type: ignore[misc]
            status = os.waitpid(pid, 0)[1]
            check_unharmed(program)
            if not os.WIFSIGNALED(status):
                assert status == 0
                break
        assert number > 50


def test_task_killed_at_each_ptrace_call(tmp_path: Path, binaries: Path) -> None:
    def capture_all() -> None:
        for number in range(1, 1000):
            while not (children := proc.children(program.pid)):
                program.wait_progress()
            step = Interceptor(number, lambda: os.kill(children[0], signal.SIGKILL))
            tracer = Tracer()
            with suppress(TaskDiedError, FreezeError):
                tracer.capture(program.tree, full=True, track=True)
            check_unharmed(program)
            tracer.leave(program.tree)
            wait_reaped(children[0])
            if step.count < number:
                break
        assert number > 50

    with start(tmp_path, binaries) as program:
        apart(capture_all)
