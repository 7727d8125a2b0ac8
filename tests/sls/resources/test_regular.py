"""open(2) of files and directories: positions, flags, who shares what."""

import os
from pathlib import Path

from tests.sls.conftest import Kept


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
