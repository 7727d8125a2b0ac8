"""Mounts for tests: the real daemon on a store of its own, on fake or on real partitions.

A fixture made by `mounting` unmounts whatever its test left, and waits for the daemons to end.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

START_SECONDS = 120.0
FAKE = "tests.fakes.slfs_daemon"
REAL = "slfs"


def is_alive(pid: int) -> bool:
    """Whether there is such a process, other than as a zombie; one whose other threads have yet to end is alive."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(os.listdir(f"/proc/{pid}/task")) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def has_ended(pid: int) -> bool:
    """Whether the process is gone, or a zombie."""
    return not is_alive(pid)


def wait_until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Poll until true; AssertionError when late."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s"
        time.sleep(0.005)


class Mounted:
    """One store and where it is mounted, or was."""

    def __init__(self, store: Path, place: Path, program: str) -> None:
        self.store = store
        self.place = place
        self.program = program
        self.daemon = 0

    def start(
        self, *arguments: str, environment: dict[str, str] | None = None
    ) -> "subprocess.CompletedProcess[str]":
        """Run the mount program once; its outcome."""
        return subprocess.run(
            [sys.executable, "-m", self.program, str(self.store), str(self.place), *arguments],
            capture_output=True,
            text=True,
            timeout=START_SECONDS,
            check=False,
            env=os.environ | (environment or {}),
        )

    def mount(self, *arguments: str, environment: dict[str, str] | None = None) -> "Mounted":
        """Mount, which must succeed."""
        outcome = self.start(*arguments, environment=environment)
        assert outcome.returncode == 0, outcome.stderr
        self.daemon = self.status()["pid"]
        return self

    def unmount(self) -> None:
        """Unmount, which must succeed, and wait for the daemon to have closed the store."""
        subprocess.run(["umount", str(self.place)], check=True, capture_output=True, text=True)
        self.wait_ended()

    def wait_ended(self) -> None:
        """Wait until the daemon is gone."""
        wait_until(lambda: not is_alive(self.daemon))

    def is_mounted(self) -> bool:
        """Whether anything is mounted there."""
        return any(
            line.split()[1] == str(self.place)
            for line in Path("/proc/self/mounts").read_text().splitlines()
        )

    def status(self) -> dict[str, Any]:
        """The mount's status."""
        return load(self.place / "status")

    def partition(self, oid: int, *, create: bool = False) -> Path:
        """A partition's directory."""
        path = self.place / "partitions" / str(oid)
        if create:
            path.mkdir()
        return path

    def clean_up(self) -> None:
        """Whatever the state: nothing stays mounted, no daemon stays."""
        if self.is_mounted():
            subprocess.run(["umount", "--lazy", str(self.place)], check=False)
        if self.daemon:
            self.wait_ended()


def load(path: Path) -> dict[str, Any]:
    """A JSON file."""
    value = json.loads(path.read_bytes())
    assert isinstance(value, dict)
    return value


MakeMount = Callable[..., Mounted]


@contextmanager
def mounting(directory: Path, program: str) -> Iterator[MakeMount]:
    """Yields `make(name="a")`: a Mounted, not yet mounted."""
    made: list[Mounted] = []

    def make(name: str = "a") -> Mounted:
        place = directory / f"mount-{name}"
        place.mkdir(exist_ok=True)
        made.append(Mounted(directory / f"{name}.slos", place, program))
        return made[-1]

    try:
        yield make
    finally:
        for mounted in made:
            mounted.clean_up()
