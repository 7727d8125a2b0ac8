"""Many pages out of one piece of the log at once.

A generation's pages lie in thousands of records, of many of which only some are wanted; looking at
each record by itself costs more than its bytes do. Here the headers of all are compared in columns,
all compressed records are decompressed in one call (which lets other threads run), and all pages are
copied in one go. Pure; what it cannot vouch for it leaves to `pages`, which looks at records one by
one and tells what is wrong.
"""

from itertools import repeat
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest, xxh3_64_intdigest

from slos.codec import decompress_blocks
from slos.format import BLOCK_PAGES, HEADER_BYTES, RECORD_MAGIC, Array, RecordFlag, RecordType
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
_WHOLE_PAGES = 9
# Pages copied through the processor's cache at a time; longer pieces are copied as they are.
_GATHERED_PAGES = 128
# Records decompressed at a time: 1 MiB at most.
_TOGETHER = 16
_LONG_PIECE = 4
# A page as one element, which numpy copies at once.
_PAGE = np.dtype((np.void, PAGE_BYTES))

Pages = NDArray[np.uint8]
Mask = NDArray[np.bool_]


class Wanted(NamedTuple):
    """Pages of records that lie in the window, in the order of the records.

    `starts` are the records' places in it, `counts` how many pages of each are wanted, `limits` the
    last of them, `bases` the ids of the records' first pages. `slots` and `rows` are the pages:
    place in the record, and where in the output they go.
    """

    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    limits: NDArray[np.int64]
    bases: NDArray[np.int64]
    slots: NDArray[np.int64]
    rows: NDArray[np.int64]


def copy_pages(window: memoryview, seed: int, wanted: Wanted, out: Pages) -> Mask:
    """Copy the pages of PAGES records that are right; which records were done."""
    data = np.frombuffer(window[: len(window) // _WORD * _WORD], np.uint8)
    heads, done = _headers(data, wanted.starts, seed)
    count = heads["count"].astype(np.int64)
    stored = heads["stored"].astype(np.int64)
    done &= (heads["type"] == RecordType.PAGES) & (count <= BLOCK_PAGES)
    done &= (wanted.limits < count) & (heads["raw"] == count * PAGE_BYTES)
    done &= wanted.starts + HEADER_BYTES + stored <= len(data)
    done &= heads["ident"].astype(np.int64) * BLOCK_PAGES == wanted.bases
    flags = heads["flags"]
    plain = done & (flags == 0) & (stored == count * (_WORD + PAGE_BYTES))
    packed = done & (flags == RecordFlag.LZ4) & (stored > count * _WORD)
    owner = np.repeat(np.arange(len(count)), wanted.counts)
    records = _Records(window, data, wanted, heads["checksum"], count, stored, owner)
    done[:] = False
    if plain.any():
        done |= records.copy_plain(plain, out)
    if packed.any():
        done |= records.copy_packed(packed, out)
    return done


class _Records(NamedTuple):
    """Records of a window whose headers are right."""

    window: memoryview
    data: Pages
    wanted: Wanted
    checksums: Array
    pages: NDArray[np.int64]
    stored: NDArray[np.int64]
    owner: NDArray[np.int64]

    def copy_plain(self, chosen: Mask, out: Pages) -> Mask:
        """Copy pages that lie in the window as they are; which records were right."""
        wanted = self.wanted
        right = chosen.copy()
        payloads = wanted.starts + HEADER_BYTES
        whole = chosen & (wanted.counts >= _WHOLE_PAGES)
        self._check_whole(whole, right)
        owner = self.owner
        places = payloads[owner] + _WORD * self.pages[owner] + wanted.slots * PAGE_BYTES
        single = np.flatnonzero((chosen & ~whole)[owner])
        starts = places[single]
        own = self.data.view("<u8")[payloads[owner[single]] // _WORD + wanted.slots[single]]
        same = _hashes(self.window, starts, starts + PAGE_BYTES) == own
        right[owner[single[~same]]] = False
        copied = right[owner]
        _copy(self.data, places[copied], wanted.rows[copied], out)
        return right

    def _check_whole(self, which: Mask, right: Mask) -> None:
        """Hold records against their checksums; those that differ are not right."""
        index = np.flatnonzero(which)
        starts = self.wanted.starts[index] + HEADER_BYTES
        sums = _hashes(self.window, starts, starts + self.stored[index])
        right[index] = sums == self.checksums[index].byteswap()

    def copy_packed(self, chosen: Mask, out: Pages) -> Mask:
        """Decompress records and copy their pages; which records were right."""
        right = chosen.copy()
        self._check_whole(chosen, right)
        index = np.flatnonzero(right)
        for start in range(0, len(index), _TOGETHER):
            self._copy_together(index[start : start + _TOGETHER], right, out)
        return right

    def _copy_together(self, index: NDArray[np.int64], right: Mask, out: Pages) -> None:
        """Decompress these records in one call; where it fails they are not right."""
        wanted, counts = self.wanted, self.pages[index]
        payloads = wanted.starts[index] + HEADER_BYTES
        columns = ((payloads + _WORD * counts).tolist(), (payloads + self.stored[index]).tolist())
        parts = [self.window[start:end] for start, end in zip(*columns, strict=True)]
        raw = decompress_blocks(parts, int(counts.sum()) * PAGE_BYTES)
        firsts = np.cumsum(counts) - counts
        if raw is None or not self._is_aligned(raw, index, firsts * PAGE_BYTES):
            right[index] = False
            return
        pages = np.flatnonzero(np.isin(self.owner, index))
        first = firsts[np.searchsorted(index, self.owner[pages])]
        places = (first + wanted.slots[pages]) * PAGE_BYTES
        _copy(np.frombuffer(raw, np.uint8), places, wanted.rows[pages], out)

    def _is_aligned(
        self, raw: memoryview, index: NDArray[np.int64], starts: NDArray[np.int64]
    ) -> bool:
        """Whether each record's pages begin where its count says: its first page has its hash.

        The bodies' checksums are right, but one that is longer than its header says would push
        the next one's pages away.
        """
        own = self.data.view("<u8")[(self.wanted.starts[index] + HEADER_BYTES) // _WORD]
        return bool((_hashes(raw, starts, starts + PAGE_BYTES) == own).all())


def _copy(data: Pages, places: NDArray[np.int64], rows: NDArray[np.int64], out: Pages) -> None:
    """Copy the pages at these places to these rows."""
    if not len(rows):
        return
    breaks = (np.diff(rows) != 1) | (np.diff(places) != PAGE_BYTES)
    firsts = np.append(0, np.flatnonzero(breaks) + 1)
    if len(firsts) * _LONG_PIECE <= len(rows):
        counts = np.diff(firsts, append=len(rows))
        # A memoryview keeps the interpreter lock: taking it anew for each piece costs more.
        source, target = data.data, out.reshape(-1).data
        lengths = counts * PAGE_BYTES
        begins, ends = places[firsts], rows[firsts] * PAGE_BYTES
        sources = map(slice, begins.tolist(), (begins + lengths).tolist())
        targets = map(slice, ends.tolist(), (ends + lengths).tolist())
        for piece, place in zip(sources, targets, strict=True):
            target[place] = source[piece]
        return
    count = max(0, len(data) - PAGE_BYTES) // _WORD + 1
    pages: NDArray[np.void] = np.ndarray((count,), _PAGE, data, strides=(_WORD,))
    filled, index = out.reshape(-1).view(_PAGE), places // _WORD
    for start in range(0, len(rows), _GATHERED_PAGES):
        part = slice(start, start + _GATHERED_PAGES)
        filled[rows[part]] = pages[index[part]]


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


def _hashes(window: memoryview, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> Array:
    """Hashes of ranges of the window, as they stand in front of pages."""
    parts = map(window.__getitem__, map(slice, starts.tolist(), ends.tolist()))
    return np.frombuffer(b"".join(map(xxh3_64_digest, parts)), "<u8")
