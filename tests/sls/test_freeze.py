"""Stopping a set of tasks: whatever they do meanwhile, and letting them go."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from sls import proc, syscalls
from sls.capture import Tracer
from sls.errors import FreezeError, TaskDiedError
from sls.freeze import Frozen, refuse_unfit
from tests.sls.apart import Program, apart, start_apart
from tests.sls.driver import command_of

pytestmark = pytest.mark.root
STORMS = ["fork", "fork-traced", "vfork", "thread", "map", "open", "exec", "exec-threads"]


def start(tmp_path: Path, binaries: Path, program: str, *case: str) -> Program:
    started = Program([*command_of(program, binaries), str(tmp_path / "go"), *case], tmp_path)
    while not started.lines():
        time.sleep(0.001)
    return started


@contextmanager
def being_refused_only_for_now() -> Iterator[None]:
    try:
        yield
    except FreezeError as error:
        assert error.errno in (errno.EAGAIN, errno.ESRCH), error


@pytest.mark.parametrize("storm", STORMS)
def test_captures_in_a_storm(tmp_path: Path, binaries: Path, storm: str) -> None:
    def capture_often() -> None:
        tracer = Tracer()
        done = 0
        for _ in range(15):
            with suppress(TaskDiedError), being_refused_only_for_now():
                tracer.capture(program.tree, full=True, track=False)
                done += 1
        assert done > 3

    with start(tmp_path, binaries, "storm.c", storm) as program:
        apart(capture_often)
        (tmp_path / "go").touch()
        assert program.process.wait(60) == 0
        assert program.lines() == ["ready", "ok"]


EXEC_BESIDE_A_THREAD = """
import os, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
print("ready", flush=True)
input()
os.execv("/bin/sleep", ["sleep", "60"])
"""


def test_an_exec_that_waits_for_a_thread_which_nobody_knows_of() -> None:
    """As one that was born traced when its process was let go: whoever runs another program waits for our wait(2)."""

    def freeze_while_it_waits() -> None:
        signal.alarm(60)  # the end of a deadlock
        (other,) = set(proc.threads(program.pid)) - {program.pid}
        syscalls.seize(other)
        os.write(program_input, b"go\n")
        while proc.stat(program.pid).state != "D":
            time.sleep(0.001)
        with being_refused_only_for_now(), Frozen(lambda: [program.pid]):
            pass
        while proc.link(program.pid, "exe") != os.path.realpath(b"/bin/sleep"):
            time.sleep(0.001)

    command = [sys.executable, "-c", EXEC_BESIDE_A_THREAD]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdin is not None
        program_input = program.stdin.fileno()
        assert program.stdout is not None
        assert program.stdout.readline() == b"ready\n"
        apart(freeze_while_it_waits)
        program.kill()


def test_a_long_vfork_is_refused_for_now(tmp_path: Path, binaries: Path) -> None:
    def be_refused() -> None:
        with pytest.raises(FreezeError, match="vfork") as raised:
            Tracer().capture(program.tree, full=True, track=False)
        assert raised.value.errno == errno.EAGAIN

    with start(tmp_path, binaries, "storm.c", "long-vfork") as program:
        time.sleep(0.05)
        apart(be_refused)
        assert not program.is_stopped()


def test_x26_a_traced_process_is_refused(tmp_path: Path, binaries: Path) -> None:
    def trace() -> None:
        syscalls.seize(program.pid)
        os.write(ready, b"x")
        os.read(end, 1)

    def be_refused() -> None:
        with pytest.raises(FreezeError, match=f"is traced by pid {debugger}") as raised:
            refuse_unfit(program.pid)
        assert raised.value.errno == errno.EBUSY
        with (
            pytest.raises(FreezeError, match=f"is traced by pid {debugger}"),
            Frozen(lambda: [program.pid]),
        ):
            pass

    (wait_ready, ready), (end, go_on) = os.pipe(), os.pipe()
    with start(tmp_path, binaries, "ticker.c") as program:
        debugger = start_apart(trace)
        os.read(wait_ready, 1)
        apart(be_refused)
        os.write(go_on, b"x")
        assert os.waitpid(debugger, 0)[1] == 0
        program.wait_progress()
    for fd in (wait_ready, ready, end, go_on):
        os.close(fd)


def test_a_pause_of_the_machine_is_no_timeout(
    tmp_path: Path, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clock has gone on, and the task that is waited for has had no time to stop."""

    def wait_across_a_pause() -> None:
        now = [1.0]
        looks: list[int] = []

        def pause_then_stop(*_: object) -> None:
            looks.append(len(looks))
            now[0] += 100.0
            if len(looks) == 2:
                os.kill(program.pid, signal.SIGUSR1)
                while proc.stat(program.pid).state != "t":
                    time.sleep(0.001)

        syscalls.seize(program.pid)
        with monkeypatch.context() as patched:
            patched.setattr(time, "monotonic", lambda: now[0])
            patched.setattr(signal, "sigtimedwait", pause_then_stop)
            assert syscalls.wait_stop(program.pid, 0.3).signal == signal.SIGUSR1
            with pytest.raises(TimeoutError):
                syscalls.wait_stop(program.pid, 0.3)
        assert len(looks) > 3

    with start(tmp_path, binaries, "ticker.c") as program:
        apart(wait_across_a_pause)


def check_unfit(pid: int, words: str, code: int) -> None:
    with pytest.raises(FreezeError, match=words) as raised:
        refuse_unfit(pid)
    assert raised.value.errno == code


def test_a_kernel_thread_is_refused() -> None:
    if not Path("/proc/2/stat").exists() or not proc.stat(2).is_kernel_thread:
        pytest.skip("no kernel threads in this pid namespace")
    check_unfit(2, "is a kernel thread", errno.EINVAL)


def test_nobody_is_refused() -> None:
    check_unfit(1 << 22, "does not exist", errno.ESRCH)


def test_one_with_more_rights_is_refused() -> None:
    """Seen by a process that may not trace all others; this one, with all of root's rights, is such another."""
    drop = ["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"]
    look = f"from sls.freeze import refuse_unfit; refuse_unfit({os.getpid()})"
    seen = subprocess.run(
        [*drop, sys.executable, "-c", look], capture_output=True, text=True, check=False
    )
    assert f"pid {os.getpid()} may not be traced: it has rights that" in seen.stderr


def test_zombie_is_refused() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(FreezeError, match="zombie"):
        refuse_unfit(pid)
    os.waitpid(pid, 0)


def test_everyone_goes_on_after_an_error(tmp_path: Path, binaries: Path) -> None:
    def fail() -> None:
        with suppress(ZeroDivisionError), Frozen(program.tree) as frozen:
            assert set(frozen.processes) == set(program.tree())
            assert program.is_stopped()
            raise ZeroDivisionError
        assert not program.is_stopped()

    with start(tmp_path, binaries, "ticker.c") as program:
        apart(fail)
        program.wait_progress()
        lines = [int(line) for line in program.lines()]
        assert lines == list(range(1, len(lines) + 1))
