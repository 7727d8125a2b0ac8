"""fcntl(2) and flock(2): locks of every kind; someone else's lock is a conflict."""

import fcntl
import os
from pathlib import Path

from tests.sls.conftest import Kept


def test_file_locks(kept: Kept) -> None:
    kept("file_lock.c", "locks")


def test_file_lock_taken_by_another(conflict: Kept, tmp_path: Path) -> None:
    taken: list[int] = []

    def take() -> None:
        taken.append(os.open(tmp_path / "flock", os.O_RDWR))
        fcntl.flock(taken[0], fcntl.LOCK_SH)

    refusal = conflict("file_lock.c", "locks", between=take).refusal
    assert f"{tmp_path}/flock is locked (FLOCK) by another process" in refusal
