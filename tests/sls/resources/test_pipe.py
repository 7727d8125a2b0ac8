"""pipe(2): contents, size, flags; both ends inside, or one outside."""

import os
from pathlib import Path

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize(
    ("count", "size"),
    [(0, 65536), (1, 4096), (65536, 65536), (1 << 20, 1 << 20)],
    ids=["empty", "one-byte", "full", "full-1MiB"],
)
def test_214_pipe_between_processes(kept: Kept, count: int, size: int) -> None:
    kept("pipe.py", count, size)


def test_214_pipe_whose_writer_is_outside(kept: Kept) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"hello")
    try:
        outcome = kept("pipe_outside.py", "read", descriptors={5: read_end})
        assert not outcome.notes
    finally:
        os.close(read_end)
        os.close(write_end)


def test_214_pipe_whose_reader_is_outside(kept: Kept) -> None:
    read_end, write_end = os.pipe()
    try:
        kept("pipe_outside.py", "write", descriptors={5: write_end})
        assert os.read(read_end, 100) == b"hello"
    finally:
        os.close(read_end)
        os.close(write_end)


def test_212_blocked_read_on_a_fifo_goes_on(kept: Kept) -> None:
    assert not kept("fifo_states.c", "blocked").losses


@pytest.mark.parametrize("case", ["contents", "deleted", "packets"])
def test_212_fifo(kept: Kept, case: str) -> None:
    assert not kept("fifo_states.c", case).losses


def test_212_fifo_whose_writer_is_outside(kept: Kept, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    writer = os.open(tmp_path / "fifo", os.O_RDWR)
    try:
        kept("fifo_states.c", "outside", between=lambda: _write_once(tmp_path, writer))
    finally:
        os.close(writer)


def _write_once(folder: Path, writer: int) -> None:
    if not (folder / "written").exists():
        (folder / "written").touch()
        os.write(writer, b"hello")
