"""Mounts and members for the tests of the tree."""

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mounts import FAKE, REAL, MakeMount, Mounted, mounting

Spawn = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    with mounting(tmp_path, FAKE) as make:
        yield make


@pytest.fixture
def mounted(make_mount: MakeMount) -> Mounted:
    return make_mount().mount()


@pytest.fixture
def public_mount() -> Iterator[Mounted]:
    """A mount that every user of the machine can reach."""
    with TemporaryDirectory(prefix="slfs-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        with mounting(directory, FAKE) as make:
            yield make().mount()


@pytest.fixture
def real_mount(tmp_path: Path) -> Iterator[Mounted]:
    with mounting(tmp_path, REAL) as make:
        yield make().mount()


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    """`spawn(*command)`: a process that ends with the test."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*command: str) -> "subprocess.Popen[bytes]":
        process = subprocess.Popen(
            command or ("sleep", "300"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()
