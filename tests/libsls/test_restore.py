"""slsctl on real partitions: standing in for restored processes, ending as they end."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.libsls.conftest import LAUNCHER, Slsctl
from tests.mounts import Mounted, has_ended, is_alive, wait_until

pytestmark = [pytest.mark.root, pytest.mark.fuse]

# Says what it sees in a file, waits for another one, and ends with a status of its own.
PROGRAM = """
import pathlib, signal, sys, time
said, go = map(pathlib.Path, sys.argv[1:])
signal.signal(signal.SIGUSR1, lambda *_: said.write_text("signalled"))
said.write_text("ready")
while not go.exists():
    time.sleep(0.01)
sys.exit(3)
"""


def start(slsctl: Slsctl, directory: Path) -> int:
    """Run the program as a member of partition 1, take a generation, kill it; its pid."""
    said = directory / "said"
    words = (sys.executable, "-c", PROGRAM, said, directory / "go")
    spawned = slsctl("spawn", "-d", "-o", 1, "--", *words)
    assert spawned.returncode == 0, spawned.stderr
    pid = int(spawned.stdout)
    wait_until(lambda: said.exists() and said.read_text())
    taken = slsctl("checkpoint", "-o", 1)
    assert taken.stdout == "1\n", taken.stderr
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid))
    return pid


def restore_in_foreground() -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [sys.executable, str(LAUNCHER), "restore", "-o", "1"], stdin=subprocess.DEVNULL
    )


@pytest.mark.usefixtures("real_mount")
def test_a_restore_in_the_foreground_stands_in(slsctl: Slsctl, tmp_path: Path) -> None:
    pid = start(slsctl, tmp_path)
    with restore_in_foreground() as program:
        wait_until(lambda: is_alive(pid))
        program.send_signal(signal.SIGUSR1)
        wait_until(lambda: (tmp_path / "said").read_text() == "signalled")
        (tmp_path / "go").touch()
        assert program.wait(60) == 3
    assert has_ended(pid)


@pytest.mark.usefixtures("real_mount")
def test_a_restored_process_killed_by_a_signal(slsctl: Slsctl, tmp_path: Path) -> None:
    pid = start(slsctl, tmp_path)
    with restore_in_foreground() as program:
        wait_until(lambda: is_alive(pid))
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 128 + signal.SIGTERM


@pytest.fixture
def ignoring_sigchld(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Programs start as under a parent that ignores SIGCHLD: the kernel keeps no status for such, wait(2)."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\nexec env --ignore-signal=CHLD {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))


@pytest.mark.usefixtures("ignoring_sigchld", "real_mount")
def test_ends_are_told_where_sigchld_was_ignored(slsctl: Slsctl, tmp_path: Path) -> None:
    assert slsctl("spawn", "-o", 2, "--", "sh", "-c", "exit 7").returncode == 7
    start(slsctl, tmp_path)
    (tmp_path / "go").touch()
    with restore_in_foreground() as program:
        assert program.wait(60) == 3


def is_stopped(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.usefixtures("real_mount")
def test_a_restore_in_the_foreground_is_a_job_of_the_shell(slsctl: Slsctl, tmp_path: Path) -> None:
    """Ctrl-Z stops the restored process and slsctl, `fg` continues both."""
    pid = start(slsctl, tmp_path)
    shell, terminal = pty.fork()
    if shell == 0:
        os.execlp("bash", "bash", "--norc", "-i")
    try:
        os.write(terminal, f"{sys.executable} {LAUNCHER} restore -o 1\n".encode())
        wait_until(lambda: is_alive(pid))
        (standing_in,) = wait_for_child(shell)
        wait_until(lambda: caught(standing_in, signal.SIGTSTP))
        os.write(terminal, b"\x1a")
        wait_until(lambda: is_stopped(pid) and is_stopped(standing_in))
        os.write(terminal, b"fg\n")
        wait_until(lambda: not is_stopped(pid) and not is_stopped(standing_in))
        (tmp_path / "go").touch()
        wait_until(lambda: has_ended(standing_in))
        os.write(terminal, b"exit $?\n")
        assert os.waitstatus_to_exitcode(os.waitpid(shell, 0)[1]) == 3
    finally:
        os.close(terminal)
        if is_alive(pid):
            os.kill(pid, signal.SIGKILL)


def wait_for_child(shell: int) -> list[int]:
    children = Path(f"/proc/{shell}/task/{shell}/children")
    wait_until(children.read_text)
    return [int(word) for word in children.read_text().split()]


def caught(pid: int, number: int) -> bool:
    """Whether a process has a handler for a signal."""
    fields = dict(
        line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines()
    )
    return bool(int(fields["SigCgt"], 16) >> number - 1 & 1)


def test_a_generation_is_restored_by_number(
    slsctl: Slsctl, real_mount: Mounted, tmp_path: Path
) -> None:
    pid = start(slsctl, tmp_path)
    for _ in range(2):
        restored = slsctl("restore", "-o", 1, "-d", "--kill", 1)
        assert restored.stdout == f"{pid}\n", restored.stderr
        assert (real_mount.partition(1) / "attach").read_text() == f"{pid}\n"
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid))


def test_spawn_with_a_period_takes_generations(slsctl: Slsctl, real_mount: Mounted) -> None:
    pid = int(slsctl("spawn", "-d", "-o", 1, "-t", 50, "--", "sleep", 60).stdout)
    wait_until(lambda: int((real_mount.partition(1) / "checkpoint").read_text()) >= 5)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: has_ended(pid))
