"""Many pages out of one piece of the log at once: records that hold them as they are.

A generation's pages lie in thousands of records, of many of which only some are wanted; looking at
each record by itself costs more than its bytes do. Here the headers of all are compared in columns,
and all pages are copied in one go. Pure; what it cannot vouch for it leaves to `pages`, which looks
at records one by one and tells what is wrong.
"""

from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.lib.stride_tricks import as_strided
from numpy.typing import NDArray
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from slos.format import BLOCK_PAGES, HEADER_BYTES, RECORD_MAGIC, Array, RecordType
from slos.store import PAGE_BYTES

_HEADER = np.dtype(
    [
        ("magic", "<u4"),
        ("type", "u1"),
        ("flags", "u1"),
        ("count", "<u2"),
        ("stored", "<u4"),
        ("raw", "<u4"),
        ("epoch", "<u8"),
        ("lsn", "<u8"),
        ("ident", "<u8"),
        ("context", "<u8"),
        ("checksum", "<u8"),
        ("header_checksum", "<u8"),
    ]
)
_MAGIC = int.from_bytes(RECORD_MAGIC, "little")
_SUMMED_BYTES = HEADER_BYTES - 8
_WORD = 8
# Of so many pages of a record the record's one checksum is quicker than the hash of each.
_WHOLE_PAGES = 11


class Wanted(NamedTuple):
    """Pages of records that lie in the window, in the order of the records.

    `starts` are the records' places in it, `counts` how many pages of each are wanted, `bases` the
    ids of the records' first pages. `slots` and `rows` are the pages: place in the record, and
    where in the output they go.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    bases: NDArray[np.int64]
    slots: NDArray[np.int64]
    rows: NDArray[np.int64]


def copy_plain(
    window: memoryview, seed: int, wanted: Wanted, out: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Copy the pages of plain PAGES records that are right; which records were done."""
    data = np.frombuffer(window[: len(window) // _WORD * _WORD], np.uint8)
    heads, done = _headers(data, wanted.starts, seed)
    count = heads["count"].astype(np.int64)
    stored = heads["stored"].astype(np.int64)
    done &= (heads["type"] == RecordType.PAGES) & (heads["flags"] == 0) & (count <= BLOCK_PAGES)
    done &= (stored == count * (_WORD + PAGE_BYTES)) & (heads["raw"] == count * PAGE_BYTES)
    done &= wanted.starts + HEADER_BYTES + stored <= len(data)
    done &= heads["ident"].astype(np.int64) * BLOCK_PAGES == wanted.bases
    owner = np.repeat(np.arange(len(count)), wanted.counts)
    np.logical_and.at(done, owner, wanted.slots < count[owner])

    payloads = wanted.starts + HEADER_BYTES
    whole = done & (wanted.counts >= _WHOLE_PAGES)
    which = np.flatnonzero(whole)
    ends = (payloads + stored)[which].tolist()
    sums = _hashes(window, payloads[which].tolist(), ends)
    done[which] = sums == heads["checksum"][which].byteswap()

    places = payloads[owner] + _WORD * count[owner] + wanted.slots * PAGE_BYTES
    single = np.flatnonzero((done & ~whole)[owner])
    starts = places[single]
    own = data.view("<u8")[payloads[owner[single]] // _WORD + wanted.slots[single]]
    right = _hashes(window, starts.tolist(), (starts + PAGE_BYTES).tolist()) == own
    done[owner[single[~right]]] = False

    copied = done[owner]
    pages = as_strided(data, (max(0, len(data) - PAGE_BYTES) // _WORD + 1, PAGE_BYTES), (_WORD, 1))
    out[wanted.rows[copied]] = pages[places[copied] // _WORD]
    return done


def _headers(
    data: NDArray[np.uint8], starts: NDArray[np.int64], seed: int
) -> tuple[NDArray[np.void], NDArray[np.bool_]]:
    """(headers at these places, which of them are whole)."""
    inside = starts + HEADER_BYTES <= len(data)
    words = data.view("<u8")
    index = np.where(inside, starts, 0)[:, None] // _WORD + np.arange(HEADER_BYTES // _WORD)
    heads = words[index]
    table = heads.view(_HEADER).reshape(-1)
    raw = heads.reshape(-1).view(np.uint8).data
    slices = [slice(at, at + _SUMMED_BYTES) for at in range(0, len(raw), HEADER_BYTES)]
    sums = map(xxh3_64_intdigest, map(raw.__getitem__, slices), repeat(seed))
    found = np.fromiter(sums, np.uint64, len(starts))
    whole = inside & (found == table["header_checksum"]) & (table["magic"] == _MAGIC)
    return table, whole


def _hashes(window: memoryview, starts: list[int], ends: list[int]) -> Array:
    """Hashes of ranges of the window, as they stand in front of pages."""
    parts = map(window.__getitem__, map(slice, starts, ends))
    return np.frombuffer(b"".join(map(xxh3_64_digest, parts)), "<u8")
