"""open(2) of files and directories: positions, flags, who shares what."""

from tests.sls.conftest import Kept


def test_210_file_offset(kept: Kept) -> None:
    kept("regular.py")
