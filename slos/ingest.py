"""From pages to records: zero pages dropped, equal pages shared, the rest compressed in blocks.

Knows pages and page ids, no objects. The blocks of a long piece are compressed in one of the store's
threads (lz4 releases the interpreter lock); whoever asks for the records waits for it.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from slos.codec import LZ4, Body, StreamCompressor, compress_blocks, take_blocks
from slos.core import Core
from slos.format import BLOCK_PAGES, U64, Array, Draft, encode_pages
from slos.store import PAGE_BYTES

_NONE = np.zeros(0, np.uint64)
_Bodies = Callable[[], list[Body]]
# Made once: half of the time of hashing a page in a loop goes into its slice.
_PAGE_SLICES = [slice(at, at + PAGE_BYTES) for at in range(0, 1024 * PAGE_BYTES, PAGE_BYTES)]


class Batch:
    """New blocks, numbered from `first_block`, and the id of every page that came in.

    `ids` is 0 for a zero page; `fresh` and `hashes` are the pages of the new blocks.
    """

    def __init__(
        self,
        ids: Array,
        first_block: int = 0,
        fresh: Array = _NONE,
        hashes: Array = _NONE,
        bodies: _Bodies | None = None,
    ):
        self.ids = ids
        self.first_block = first_block
        self.fresh = fresh
        self.hashes = hashes
        self._bodies = bodies
        self._drafts: list[Draft] | None = None

    @property
    def drafts(self) -> list[Draft]:
        """The records; waits for the thread that compresses them."""
        if self._drafts is None:
            bodies = self._bodies() if self._bodies is not None else []
            self._drafts = encode_pages(bodies, self.hashes.tobytes(), self.first_block)
        return self._drafts

    def is_own(self) -> bool:
        """Whether nothing of it lies in the caller's memory: all pages are compressed."""
        return all(draft.flags & LZ4 for draft in self.drafts)


EMPTY = Batch(_NONE)


def page_hashes(data: memoryview, count: int) -> Array:
    """Content hashes of the pages of a buffer."""
    digests: list[bytes] = []
    piece = len(_PAGE_SLICES)
    for start in range(0, count, piece):
        part = data[start * PAGE_BYTES : (start + piece) * PAGE_BYTES]
        digests += map(xxh3_64_digest, map(part.__getitem__, _PAGE_SLICES[: count - start]))
    return np.frombuffer(b"".join(digests), U64)


_ZERO_HASH = int(page_hashes(memoryview(bytes(PAGE_BYTES)), 1)[0])


class Examined(NamedTuple):
    """Pages that hold data, as rows of words, their hashes, and which of all pages they are.

    `filled` is None where they are all.
    """

    rows: Array
    hashes: Array
    distinct: set[int]
    filled: NDArray[np.int64] | None
    total: int


def examine(data: memoryview) -> Examined:
    """Look at whole pages."""
    rows = np.frombuffer(data, np.uint64).reshape(-1, PAGE_BYTES // 8)
    hashes = page_hashes(data, len(rows))
    distinct = set(hashes.tolist())
    if _ZERO_HASH not in distinct:
        return Examined(rows, hashes, distinct, None, len(rows))
    holes = hashes == _ZERO_HASH
    holes[holes] = ~rows[holes].any(axis=1)
    filled = np.flatnonzero(~holes)
    hashes = hashes[filled]
    return Examined(rows[filled], hashes, set(hashes.tolist()), filled, len(rows))


def prepare(
    core: Core,
    data: memoryview,
    examined: Examined,
    held: list[Array],
    compressor: StreamCompressor | None = None,
) -> Batch:
    """Turn whole pages into records. Ids of shared pages are added to `held`.

    With a compressor, that of a long piece's stream, a thread of the store compresses them.
    """
    rows, hashes, distinct, filled, total = examined
    core.counts.pages_written += total
    core.counts.pages_zero += total - len(rows)
    if not len(rows):
        return Batch(np.zeros(total, np.uint64))
    found = core.share(hashes, rows, held)
    twins = None if len(distinct) == len(hashes) else _twins(hashes, rows)
    if found is None and twins is None and filled is None:
        return _new_pages(core, data, hashes, compressor)
    ids = np.zeros(len(rows), np.uint64) if found is None else found
    is_fresh = ids == 0
    if twins is not None:
        is_fresh &= twins == np.arange(len(twins))
    fresh = np.flatnonzero(is_fresh)
    core.counts.pages_shared += len(rows) - len(fresh)
    batch = _new_pages(core, _gather(rows, fresh), hashes[fresh], compressor)
    ids[fresh] = batch.ids
    if twins is not None:
        ids = np.where(ids == 0, ids[twins], ids)
    batch.ids = ids
    if filled is not None:
        batch.ids = np.zeros(total, np.uint64)
        batch.ids[filled] = ids
    return batch


def _new_pages(
    core: Core, data: memoryview, hashes: Array, compressor: StreamCompressor | None
) -> Batch:
    """Pages of which the store has none."""
    count = len(hashes)
    with core.lock:
        block = core.catalog.take_blocks(-(-count // BLOCK_PAGES))
    first = block * BLOCK_PAGES
    ids = np.arange(first, first + count, dtype=np.uint64)
    return Batch(ids, block, ids, hashes, _bodies(core, data, compressor))


def _bodies(core: Core, data: memoryview, compressor: StreamCompressor | None) -> _Bodies:
    """The compressed blocks, when they are asked for."""
    if compressor is None:
        return partial(compress_blocks, data)
    frame = core.pool.submit(compressor.compress, data)
    # The thread that compresses does only that; whoever writes takes the frame apart.
    return lambda: take_blocks(frame.result(), data)


def _gather(rows: Array, fresh: NDArray[np.int64]) -> memoryview:
    return rows[fresh].reshape(-1).view(np.uint8).data


def _twins(hashes: Array, rows: Array) -> NDArray[np.int64]:
    """For each row the first row with the same bytes."""
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    twins = first[inverse]
    equal = (rows == rows[twins]).all(axis=1)
    return np.where(equal, twins, np.arange(len(hashes)))


def register(core: Core, batch: Batch, offsets: list[int]) -> None:
    """The batch's records lie at these offsets. The caller holds the state lock."""
    drafts = batch.drafts
    if not drafts:
        return
    core.catalog.add_blocks(
        batch.first_block,
        offsets,
        [draft.count for draft in drafts],
        [draft.record_bytes for draft in drafts],
    )
    core.hashes.add(batch.hashes, batch.fresh)
