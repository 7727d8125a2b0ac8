"""The cache of blocks: what it holds is what was written last, within its bounds."""

from slfs.files.blocks import BLOCK_PAGES, BlockCache, Blocks, Written
from slos.store import PAGE_BYTES


def pages(first: int, count: int, fill: bytes) -> dict[int, bytes]:
    return dict.fromkeys(range(first, first + count), fill * PAGE_BYTES)


def held(blocks: Blocks, object_id: int, number: int) -> bytes | None:
    found = blocks.find(object_id, number)
    return None if found is None else bytes(found)


def test_a_whole_block_is_made_by_a_flush() -> None:
    blocks = Blocks(BlockCache())
    blocks.patch(7, Written(pages(BLOCK_PAGES, BLOCK_PAGES, b"a")))
    assert blocks.find(7, 0) is None
    assert held(blocks, 7, 1) == b"a" * BLOCK_PAGES * PAGE_BYTES


def test_a_part_changes_a_block_that_is_here_and_no_other() -> None:
    blocks = Blocks(BlockCache())
    blocks.put(7, 0, bytearray(b"a" * PAGE_BYTES))
    blocks.patch(7, Written(pages(0, 1, b"b") | pages(3, 1, b"c") | pages(BLOCK_PAGES, 1, b"d")))
    expected = b"b" * PAGE_BYTES + bytes(2 * PAGE_BYTES) + b"c" * PAGE_BYTES
    assert held(blocks, 7, 0) == expected
    assert blocks.find(7, 1) is None


def test_a_cut_forgets_what_lies_behind() -> None:
    blocks = Blocks(BlockCache())
    for number in range(4):
        blocks.put(7, number, bytearray(b"x"))
        blocks.put(8, number, bytearray(b"y"))
    blocks.cut(7, BLOCK_PAGES + 1)
    assert [held(blocks, 7, number) for number in range(4)] == [b"x", None, None, None]
    assert held(blocks, 8, 3) == b"y"


def test_the_oldest_go_beyond_the_bound() -> None:
    cache = BlockCache(limit_bytes=10 * PAGE_BYTES)
    blocks = Blocks(cache)
    for number in range(20):
        blocks.put(7, number, bytearray(PAGE_BYTES))
        assert blocks.find(7, 0) is not None  # used all the time
    assert cache.held_bytes <= 10 * PAGE_BYTES
    assert blocks.find(7, 1) is None
    assert blocks.find(7, 19) is not None


def test_two_trees_do_not_see_each_other() -> None:
    cache = BlockCache()
    one, other = Blocks(cache), Blocks(cache)
    one.put(7, 0, bytearray(b"one"))
    assert other.find(7, 0) is None
    del one
    assert cache.held_bytes == 0


def test_what_was_read_in_order_goes_first() -> None:
    cache = BlockCache(limit_bytes=10 * PAGE_BYTES)
    blocks = Blocks(cache)
    for number in range(9):
        blocks.put(7, number, bytearray(PAGE_BYTES))
    blocks.release(7, range(6, 12))
    for number in (20, 21, 22):
        blocks.put(7, number, bytearray(PAGE_BYTES))
    assert [number for number in range(9) if blocks.find(7, number) is None] == [6, 7, 8]
