"""From pages to records: zero pages dropped, equal pages shared, the rest compressed in blocks.

Knows pages and page ids, no objects. Compression runs in the store's threads (lz4 releases the
GIL) where there is enough of it.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from slos.core import Core
from slos.format import BLOCK_BYTES, BLOCK_PAGES, U64, Array, Draft, encode_pages
from slos.store import PAGE_BYTES

_THREADED_BLOCKS = 32
_TASK_BLOCKS = 16


class Batch(NamedTuple):
    """Records for new blocks, and the id of every page that came in; 0 for a zero page."""

    ids: Array
    drafts: list[Draft]
    first_block: int
    fresh: Array
    hashes: Array


_NONE = np.zeros(0, np.uint64)
EMPTY = Batch(_NONE, [], 0, _NONE, _NONE)


def page_hashes(data: memoryview, numbers: list[int]) -> Array:
    """Content hashes of some pages of a buffer."""
    return np.frombuffer(
        b"".join(
            [
                xxh3_64_digest(data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES])
                for number in numbers
            ]
        ),
        U64,
    )


def prepare(core: Core, data: memoryview, held: list[Array]) -> Batch:
    """Turn whole pages into records. Ids of shared pages are added to `held`."""
    words = np.frombuffer(data, np.uint64).reshape(-1, PAGE_BYTES // 8)
    ids = np.zeros(len(words), np.uint64)
    filled = np.flatnonzero(words.any(axis=1))
    core.counts.pages_written += len(words)
    core.counts.pages_zero += len(words) - len(filled)
    if not len(filled):
        return Batch(ids, [], 0, filled.astype(np.uint64), ids[:0])
    hashes = page_hashes(data, filled.tolist())
    rows = words if len(filled) == len(words) else words[filled]
    found = core.share(hashes, rows, held)
    twins = _twins(hashes, rows)
    fresh = np.flatnonzero((found == 0) & (twins == np.arange(len(twins))))
    core.counts.pages_shared += len(filled) - len(fresh)
    drafts, first = _encode(
        core, data if len(fresh) == len(words) else _gather(rows, fresh), hashes[fresh]
    )
    new_ids = np.arange(first * BLOCK_PAGES, first * BLOCK_PAGES + len(fresh), dtype=np.uint64)
    found[fresh] = new_ids
    ids[filled] = np.where(found == 0, found[twins], found)
    return Batch(ids, drafts, first, new_ids, hashes[fresh])


def _gather(rows: Array, fresh: NDArray[np.int64]) -> memoryview:
    return rows[fresh].reshape(-1).view(np.uint8).data


def _twins(hashes: Array, rows: Array) -> NDArray[np.int64]:
    """For each row the first row with the same bytes."""
    own = np.arange(len(hashes))
    order = np.argsort(hashes, kind="stable")
    if not (hashes[order[1:]] == hashes[order[:-1]]).any():
        return own
    _, first, inverse = np.unique(hashes, return_index=True, return_inverse=True)
    twins = first[inverse]
    equal = (rows == rows[twins]).all(axis=1)
    return np.where(equal, twins, own)


def _encode(core: Core, data: memoryview, hashes: Array) -> tuple[list[Draft], int]:
    """(records, number of the first block)."""
    packed = hashes.tobytes()
    count = -(-len(hashes) // BLOCK_PAGES)
    with core.lock:
        first = core.catalog.take_blocks(count)

    def encode(start: int) -> list[Draft]:
        return [
            encode_pages(
                data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES],
                packed[block * BLOCK_PAGES * 8 : (block + 1) * BLOCK_PAGES * 8],
            )
            for block in range(start, min(start + _TASK_BLOCKS, count))
        ]

    if count < _THREADED_BLOCKS:
        drafts = [draft for start in range(0, count, _TASK_BLOCKS) for draft in encode(start)]
    else:
        tasks = list(core.pool.map(encode, range(0, count, _TASK_BLOCKS)))
        drafts = [draft for task in tasks for draft in task]
    for number, draft in enumerate(drafts, first):
        draft.ident = number
    return drafts, first


def register(core: Core, batch: Batch, offsets: list[int]) -> None:
    """The batch's records lie at these offsets. The caller holds the state lock."""
    if not batch.drafts:
        return
    core.catalog.add_blocks(
        batch.first_block,
        offsets,
        [draft.count for draft in batch.drafts],
        [draft.record_bytes for draft in batch.drafts],
    )
    core.hashes.add(batch.hashes, batch.fresh)
