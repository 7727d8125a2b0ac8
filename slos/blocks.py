"""Where blocks of pages lie: block number → place in the log, as sorted numpy columns.

A page id is block number · 16 + index. A block is born whole, as one PAGES record; collection may
move what is left of it into a MOVED record, beside pages of other blocks. Callers lock.
"""

import struct
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slos.format import BLOCK_PAGES, UNIT_BYTES, Array

ROW = np.dtype(
    [
        ("id", "<u8"),
        ("unit", "<u8"),
        ("mask", "<u2"),
        ("base", "u1"),
        ("total", "u1"),
        ("size", "<u4"),
    ]
)
Rows = NDArray[np.void]
_pack = struct.Struct("<QQHBBI").pack  # A row. By tuples numpy takes three times as long.
_SHIFT = np.uint64(4)
_WAITING = 64
_INDEX = np.uint64(BLOCK_PAGES - 1)
# Bits set in each mask; numpy has bitwise_count only since 2.0.
_POPULATION = np.array([mask.bit_count() for mask in range(1 << BLOCK_PAGES)], np.int64)


class Places(NamedTuple):
    """Where pages lie: record offset (0: nowhere), slot in it, length of the record."""

    offsets: NDArray[np.int64]
    slots: NDArray[np.int64]
    sizes: NDArray[np.int64]


class BlockTable:
    """All blocks of a store, ascending by number."""

    def __init__(self, rows: Rows | None = None):
        self._rows: Rows = np.zeros(1024, ROW) if rows is None else rows
        self._count = 0 if rows is None else len(rows)
        # New blocks that nobody has asked for yet: many are taken in for the price of a few.
        self._waiting: list[tuple[int, list[int], list[int], list[int]]] = []

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def rows(self) -> Rows:
        """The rows in use: a view, valid until the next change."""
        if self._waiting:
            self._take_in()
        return self._rows[: self._count]

    def add(self, first: int, offsets: list[int], counts: list[int], sizes: list[int]) -> None:
        """New whole blocks, numbered from `first`."""
        self._waiting.append((first, offsets, counts, sizes))
        if len(self._waiting) == _WAITING:
            self._take_in()

    def _take_in(self) -> None:
        waiting, self._waiting = sorted(self._waiting), []
        rows = [
            _pack(number, offset // UNIT_BYTES, (1 << pages) - 1, 0, pages, size)
            for first, offsets, counts, sizes in waiting
            for number, offset, pages, size in zip(
                range(first, first + len(offsets)), offsets, counts, sizes, strict=True
            )
        ]
        self._reserve(len(rows))
        disordered = self._count > 0 and int(self._rows["id"][self._count - 1]) >= waiting[0][0]
        self._rows[self._count : self._count + len(rows)] = np.frombuffer(b"".join(rows), ROW)
        self._count += len(rows)
        if disordered:  # Numbers are taken before the append; another thread's came first.
            self._rows[: self._count].sort(order="id")

    def _reserve(self, count: int) -> None:
        needed = self._count + count
        if needed > len(self._rows):
            grown = np.zeros(max(needed, len(self._rows) * 3 // 2), ROW)
            grown[: self._count] = self.rows
            self._rows = grown

    def add_rows(self, rows: Rows) -> None:
        """Rows of a checkpoint, behind all others."""
        assert not self._waiting
        self._reserve(len(rows))
        self._rows[self._count : self._count + len(rows)] = rows
        self._count += len(rows)

    def find(self, blocks: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(row numbers, whether they are the blocks'); unknown blocks get some row."""
        ids = self.rows["id"]
        if not len(ids):
            return np.zeros(len(blocks), np.int64), np.zeros(len(blocks), np.bool_)
        first, last = int(ids[0]), int(ids[-1])
        if last - first == self._count - 1:  # No block is gone yet: the number tells the row.
            known = (blocks >= first) & (blocks <= last)
            return np.where(known, blocks - np.uint64(first), 0).astype(np.int64), known
        index = np.minimum(np.searchsorted(ids, blocks), self._count - 1)
        return index, ids[index] == blocks

    def locate(self, page_ids: Array) -> Places:
        """Where these pages lie."""
        if not len(self.rows):
            nowhere = np.zeros(len(page_ids), np.int64)
            return Places(nowhere, nowhere, nowhere)
        index, known = self.find(page_ids >> _SHIFT)
        rows = self.rows
        place = (page_ids & _INDEX).astype(np.int64)
        mask = rows["mask"][index].astype(np.int64)
        known &= (mask >> place) & 1 == 1
        slots = rows["base"][index] + _POPULATION[mask & ((1 << place) - 1)]
        offsets = np.where(known, rows["unit"][index].astype(np.int64) * UNIT_BYTES, 0)
        return Places(offsets, slots, rows["size"][index].astype(np.int64))

    def move(self, page_ids: Array, offset: int, size: int) -> Array:
        """Pages of known blocks now lie in the record at `offset`; the blocks that moved.

        The record holds each of its blocks in one piece, in ascending order of the pages.
        """
        owners: Array = page_ids >> _SHIFT
        blocks, starts, inverse = np.unique(owners, return_index=True, return_inverse=True)
        index, known = self.find(blocks)
        bits = (1 << (page_ids & _INDEX).astype(np.int64)).astype(np.int64)
        masks = np.zeros(len(blocks), np.int64)
        np.bitwise_or.at(masks, inverse, bits)
        rows = self.rows
        for field, values in (
            ("unit", offset // UNIT_BYTES),
            ("total", len(page_ids)),
            ("size", size),
        ):
            rows[field][index[known]] = values
        rows["mask"][index[known]] = masks[known]
        rows["base"][index[known]] = starts[known]
        return blocks

    def drop(self, gone: NDArray[np.bool_]) -> None:
        """Forget the rows marked."""
        kept = self.rows[~gone]
        self._rows = kept
        self._count = len(kept)

    def live_shares(self, masks: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bytes of the log that the pages in `masks`, one mask a row, stand for."""
        rows = self.rows
        held = _POPULATION[masks]
        return np.asarray(rows["size"].astype(np.int64) * held // np.maximum(rows["total"], 1))

    def shares(self) -> NDArray[np.int64]:
        """Bytes of the log that each row stands for."""
        return self.live_shares(self.rows["mask"].astype(np.int64))
