"""Copies of sparse files. Standard library only."""

import os
from pathlib import Path
from typing import Final

PIECE_BYTES: Final = 1 << 20
BLOCK_BYTES: Final = 4096
_ZERO_BLOCK: Final = bytes(BLOCK_BYTES)


def copy_sparse(source: Path, destination: Path) -> int:
    """Copy a file into a new one, readable by its owner alone, with holes where blocks are zeros; the bytes written.

    Nothing is left behind when it fails. Raises OSError (EEXIST: a file is never replaced).
    """
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    with source.open("rb", buffering=0) as reader:
        writer = os.open(destination, flags, 0o600)
        try:
            return _copy(reader.fileno(), writer)
        except BaseException:
            destination.unlink()
            raise
        finally:
            os.close(writer)


def _copy(reader: int, writer: int) -> int:
    position = written = 0
    while data := os.pread(reader, PIECE_BYTES, position):
        for start in range(0, len(data), BLOCK_BYTES):
            block = data[start : start + BLOCK_BYTES]
            if block != _ZERO_BLOCK[: len(block)]:
                written += os.pwrite(writer, block, position + start)
        position += len(data)
    os.ftruncate(writer, position)
    return written
