"""Copies with holes."""

import os
from pathlib import Path

import pytest

from libsls.sparse import BLOCK_BYTES, PIECE_BYTES, copy_sparse


def test_a_copy_is_equal_and_has_holes(tmp_path: Path) -> None:
    source, copy = tmp_path / "a", tmp_path / "b"
    with source.open("wb") as file:
        for offset, data in ((5, b"x"), (PIECE_BYTES - 1, b"yz"), (3 * PIECE_BYTES, b"end")):
            os.pwrite(file.fileno(), data, offset)
        file.truncate(4 * PIECE_BYTES + 7)
    assert copy_sparse(source, copy) == 4 * BLOCK_BYTES
    assert copy.read_bytes() == source.read_bytes()
    assert copy.stat().st_blocks * 512 <= 8 * BLOCK_BYTES
    assert copy.stat().st_mode & 0o777 == 0o600


def test_nothing_is_replaced_and_nothing_left(tmp_path: Path) -> None:
    source, copy = tmp_path / "a", tmp_path / "b"
    source.write_bytes(b"new")
    copy.write_bytes(b"old")
    with pytest.raises(FileExistsError):
        copy_sparse(source, copy)
    assert copy.read_bytes() == b"old"
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        copy_sparse(source, link)
    with pytest.raises(IsADirectoryError):
        copy_sparse(tmp_path, tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["a", "b", "link"]
