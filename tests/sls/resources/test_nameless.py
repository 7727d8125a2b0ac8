"""Deleted files and shared memory without a name (unlink(2), shm_overview(7))."""

from pathlib import Path

import pytest

from tests.sls.conftest import Kept
from tests.sls.driver import Way

POSIX_MEMORY = Path("/dev/shm")


@pytest.mark.parametrize("kind", ["posix-open", "posix-closed", "posix-small"])
def test_215_posix_shm_already_unlinked(kept: Kept, kind: str) -> None:
    kept("shared_memory.c", kind)


@pytest.mark.parametrize(
    "kind", ["file-closed", "file-deleted-closed", "file-deleted-open", "file-deleted-small"]
)
def test_206_shared_file(kept: Kept, kind: str) -> None:
    kept("shared_memory.c", kind)


@pytest.mark.parametrize("kind", ["anonymous", "zero"])
def test_207_213_anonymous_memory(kept: Kept, kind: str) -> None:
    kept("shared_memory.c", kind)


def test_deleted_files(kept: Kept) -> None:
    kept("deleted.c")


def test_deleted_executable(kept: Kept) -> None:
    kept("deleted_executable.c")


def test_posix_shm_open_and_not_mapped(kept: Kept) -> None:
    """Others have written into it while the program was dead."""

    def spoil() -> None:
        for memory in POSIX_MEMORY.glob("sls-posix-memory-*"):
            if memory.stat().st_size and kept.way is Way.RESTORED:
                memory.write_bytes(b"other")

    kept("posix_memory.py", between=spoil)
