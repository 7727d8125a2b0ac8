"""From pages to records: zero pages dropped, equal pages shared, the rest compressed in blocks.

Knows pages and page ids, no objects. Compression runs in the store's threads (lz4 releases the
GIL) where there is enough of it.
"""

from concurrent.futures import Future
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from slos.core import Core
from slos.format import BLOCK_BYTES, BLOCK_PAGES, U64, Array, Draft, encode_pages
from slos.store import PAGE_BYTES

_THREADED_BLOCKS = 32
_TASK_BLOCKS = 16


class Encoded:
    """Records in the making, numbered from `first`."""

    def __init__(self, tasks: "list[Future[list[Draft]]] | None", drafts: list[Draft], first: int):
        self._tasks = tasks
        self._drafts = drafts
        self._first = first

    def drafts(self) -> list[Draft]:
        """All of them, when they are done."""
        if self._tasks is not None:
            self._drafts = [draft for task in self._tasks for draft in task.result()]
            self._tasks = None
        for number, draft in enumerate(self._drafts, self._first):
            draft.ident = number
        return self._drafts


class Batch(NamedTuple):
    """Records for new blocks, and the id of every page that came in; 0 for a zero page."""

    ids: Array
    encoded: "Encoded"
    first_block: int
    fresh: Array
    hashes: Array

    @property
    def drafts(self) -> list[Draft]:
        """The records; waits for the threads that make them."""
        return self.encoded.drafts()


_NONE = np.zeros(0, np.uint64)
_NO_RECORDS = Encoded(None, [], 0)
EMPTY = Batch(_NONE, _NO_RECORDS, 0, _NONE, _NONE)


def page_hashes(data: memoryview, count: int) -> Array:
    """Content hashes of the pages of a buffer."""
    ends = range(PAGE_BYTES, (count + 1) * PAGE_BYTES, PAGE_BYTES)
    return np.frombuffer(
        b"".join([xxh3_64_digest(data[end - PAGE_BYTES : end]) for end in ends]), U64
    )


_ZERO_HASH = page_hashes(memoryview(bytes(PAGE_BYTES)), 1)[0]


class Examined(NamedTuple):
    """Pages as rows of words, which of them hold data, and the hashes of those."""

    words: Array
    filled: NDArray[np.int64]
    hashes: Array


def examine(data: memoryview) -> Examined:
    """Look at whole pages."""
    words = np.frombuffer(data, np.uint64).reshape(-1, PAGE_BYTES // 8)
    hashes = page_hashes(data, len(words))
    holes = hashes == _ZERO_HASH
    if not holes.any():
        return Examined(words, np.arange(len(words)), hashes)
    holes[holes] = ~words[holes].any(axis=1)
    filled = np.flatnonzero(~holes)
    return Examined(words, filled, hashes[filled])


def prepare(core: Core, data: memoryview, examined: Examined, held: list[Array]) -> Batch:
    """Turn whole pages into records. Ids of shared pages are added to `held`."""
    words, filled, hashes = examined
    ids = np.zeros(len(words), np.uint64)
    core.counts.pages_written += len(words)
    core.counts.pages_zero += len(words) - len(filled)
    if not len(filled):
        return Batch(ids, _NO_RECORDS, 0, _NONE, _NONE)
    rows = words if len(filled) == len(words) else words[filled]
    found = core.share(hashes, rows, held)
    twins = _twins(hashes, rows)
    fresh = np.flatnonzero((found == 0) & (twins == np.arange(len(twins))))
    core.counts.pages_shared += len(filled) - len(fresh)
    encoded, first = _encode(
        core, data if len(fresh) == len(words) else _gather(rows, fresh), hashes[fresh]
    )
    new_ids = np.arange(first * BLOCK_PAGES, first * BLOCK_PAGES + len(fresh), dtype=np.uint64)
    found[fresh] = new_ids
    ids[filled] = np.where(found == 0, found[twins], found)
    return Batch(ids, encoded, first, new_ids, hashes[fresh])


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


def _encode(core: Core, data: memoryview, hashes: Array) -> tuple[Encoded, int]:
    """(records, number of the first block)."""
    packed = hashes.tobytes()
    count = -(-len(hashes) // BLOCK_PAGES)
    with core.lock:
        first = core.catalog.take_blocks(count)

    def encode(start: int, stop: int) -> list[Draft]:
        return [
            encode_pages(
                data[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES],
                packed[block * BLOCK_PAGES * 8 : (block + 1) * BLOCK_PAGES * 8],
            )
            for block in range(start, min(stop, count))
        ]

    if count < _THREADED_BLOCKS:
        return Encoded(None, encode(0, count), first), first
    tasks = [
        core.pool.submit(encode, start, start + _TASK_BLOCKS)
        for start in range(0, count, _TASK_BLOCKS)
    ]
    return Encoded(tasks, [], first), first


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
