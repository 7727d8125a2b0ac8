"""Mounts with a partition whose `files/` is empty, and a twin directory on the machine's own file system."""

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mounts import FAKE, REAL, MakeMount, Mounted, mounting


@pytest.fixture(scope="module")
def shared_mount() -> Iterator[Mounted]:
    """One mount for all tests of a module."""
    with TemporaryDirectory(prefix="slfs-files-") as name, mounting(Path(name), FAKE) as make:
        yield make().mount()


@pytest.fixture(scope="module")
def tree(shared_mount: Mounted) -> Path:
    """`files/` of a partition."""
    return shared_mount.partition(1, create=True) / "files"


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    with mounting(tmp_path, FAKE) as make:
        yield make


@pytest.fixture
def real_mount(tmp_path: Path) -> Iterator[Mounted]:
    with mounting(tmp_path, REAL) as make:
        yield make().mount()
