"""Compressing a stream: what gains is compressed, what does not is taken as it is, all of it comes back."""

import random

from hypothesis import given, settings
from hypothesis import strategies as st

from slos.codec import BLOCK_BYTES, StreamCompressor, decompress, take_blocks
from slos.store import PAGE_BYTES

PIECE = 64 * BLOCK_BYTES
_CHANCE = random.Random(5)
DENSE = _CHANCE.randbytes(PIECE)
LOOSE = _CHANCE.randbytes(PAGE_BYTES // 8) * (8 * PIECE // PAGE_BYTES)


def stored(compressor: StreamCompressor, piece: bytes) -> int:
    """Bytes that a piece takes; it must come back whole."""
    view = memoryview(piece)
    bodies = take_blocks(compressor.compress(view), view)
    lengths = [min(BLOCK_BYTES, len(piece) - at) for at in range(0, len(piece), BLOCK_BYTES)]
    blocks = [
        decompress(body, flags, length)
        for (body, flags), length in zip(bodies, lengths, strict=True)
    ]
    assert b"".join(block or b"" for block in blocks) == piece
    return sum(len(body) for body, _ in bodies)


def test_what_gains_is_compressed_also_after_what_does_not() -> None:
    compressor = StreamCompressor()
    for _ in range(3):
        assert stored(compressor, DENSE) == len(DENSE)
        assert stored(compressor, DENSE) == len(DENSE)
        assert stored(compressor, LOOSE) < len(LOOSE) // 4


def test_what_gains_nothing_is_not_compressed_again() -> None:
    compressor = StreamCompressor()
    assert compressor.compress(memoryview(DENSE)) is not None
    assert compressor.compress(memoryview(DENSE)) is None


def test_each_block_is_looked_at() -> None:
    """One block that gains, at any place among those that do not, is found."""
    for block in range(PIECE // BLOCK_BYTES):
        piece = bytearray(DENSE)
        piece[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES] = LOOSE[:BLOCK_BYTES]
        compressor = StreamCompressor()
        stored(compressor, DENSE)
        assert stored(compressor, bytes(piece)) < len(piece)


def test_each_page_has_its_turn() -> None:
    """A page that gains, at the same place of every block, is found before long."""
    compressor = StreamCompressor()
    blocks = [DENSE[at : at + BLOCK_BYTES - PAGE_BYTES] for at in range(0, PIECE, BLOCK_BYTES)]
    piece = b"".join(LOOSE[:PAGE_BYTES] + block for block in blocks)
    stored(compressor, DENSE)
    turns = BLOCK_BYTES // PAGE_BYTES
    assert any(compressor.compress(memoryview(piece)) is not None for _ in range(turns))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, PIECE // PAGE_BYTES)), max_size=6))
def test_pieces_of_any_length_come_back(pieces: list[tuple[bool, int]]) -> None:
    compressor = StreamCompressor()
    for dense, pages in pieces:
        stored(compressor, (DENSE if dense else LOOSE)[: pages * PAGE_BYTES])
