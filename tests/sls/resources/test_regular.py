"""open(2) of files and directories: positions, flags, who shares what."""

import os
from pathlib import Path

from tests.sls.conftest import Kept
from tests.sls.driver import Way


def test_210_file_offset(kept: Kept) -> None:
    kept("regular.py")


def test_open_flags(kept: Kept) -> None:
    kept("open_flags.c")


def test_file_that_vanished(conflict: Kept, tmp_path: Path) -> None:
    outcome = conflict("regular.py", between=(tmp_path / "lines").unlink)
    assert f"{tmp_path}/lines: No such file" in outcome.refusal


def test_file_that_shrank(conflict: Kept, tmp_path: Path) -> None:
    outcome = conflict("regular.py", between=lambda: os.truncate(tmp_path / "lines", 4))
    assert f"{tmp_path}/lines has 4 bytes, 10 at the checkpoint" in outcome.refusal


def test_files_of_proc(kept: Kept) -> None:
    kept("proc_file.py")


def test_removed_directories(kept: Kept) -> None:
    outcome = kept("removed_directory.py", "in one that stays")
    assert not outcome.losses
    assert not outcome.notes


def test_removed_directories_in_one_that_is_removed(kept: Kept, tmp_path: Path) -> None:
    """It is made in the nearest that is there, which is told."""
    outcome = kept("removed_directory.py", "in one that is gone")
    words = f"{tmp_path}/outer/inner lives in {tmp_path}: its directory is gone"
    assert {one.detail for one in outcome.notes} == ({words} if kept.way is Way.RESTORED else set())
