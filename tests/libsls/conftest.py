"""A mount on fake partitions, found by $SLFS_MOUNT."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounts import FAKE, REAL, Mounted, mounting

Slsctl = Callable[..., "subprocess.CompletedProcess[str]"]
LAUNCHER = Path(__file__).parents[2] / "tools" / "slsctl"
# What ignores SIGINT when it starts goes on ignoring it; tests may be started so, as in the background of a script.
INTERRUPTIBLE = ("env", "--default-signal=INT", sys.executable, str(LAUNCHER))


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    with mounting(tmp_path, FAKE) as make:
        mounted = make().mount()
        monkeypatch.setenv("SLFS_MOUNT", str(mounted.place))
        yield mounted


@pytest.fixture
def real_mount(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mounted]:
    """A mount on real partitions, found by $SLFS_MOUNT."""
    with mounting(tmp_path, REAL) as make:
        mounted = make().mount()
        monkeypatch.setenv("SLFS_MOUNT", str(mounted.place))
        yield mounted


@pytest.fixture
def slsctl() -> Slsctl:
    """`slsctl(*arguments)`: the program's outcome."""

    def run(*arguments: object, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, str(LAUNCHER), *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
            env=os.environ.copy(),
        )

    return run


@pytest.fixture
def sleeper() -> Iterator[int]:
    """The pid of a process that ends with the test."""
    process = subprocess.Popen(["sleep", "300"], start_new_session=True)
    yield process.pid
    process.kill()
    process.wait()
