"""slsctl on real partitions: standing in for restored processes, ending as they end."""

import os
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
        assert program.wait(20) == 3
    assert has_ended(pid)


@pytest.mark.usefixtures("real_mount")
def test_a_restored_process_killed_by_a_signal(slsctl: Slsctl, tmp_path: Path) -> None:
    pid = start(slsctl, tmp_path)
    with restore_in_foreground() as program:
        wait_until(lambda: is_alive(pid))
        program.send_signal(signal.SIGTERM)
        assert program.wait(20) == 128 + signal.SIGTERM


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
