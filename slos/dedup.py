"""Finding equal pages: content hash → page id, as sorted arrays that grow by merging.

The hash only proposes; whoever asks compares the bytes. Callers lock. Bounded: beyond
`max_entries` the oldest pages are no longer proposed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slos.format import Array

_RATIO = 8
# Bytes of the filter for each page: one in twenty lookups of a page that is not there goes on.
_FILTER_SHARE = 8
_FILTER_BYTES = 1 << 16
_RECENT = 16384
_OTHER_BITS = np.uint64(32)
_NONE = np.zeros(0, np.uint64)


class Level:
    """One sorted array; `key` names the section that keeps it, None while none does."""

    __slots__ = ("hashes", "ids", "key")

    def __init__(self, hashes: Array, ids: Array, key: int | None = None):
        order = np.argsort(hashes, kind="stable")
        self.hashes = hashes[order]
        self.ids = ids[order]
        self.key = key


class HashIndex:
    """All pages that may be shared."""

    def __init__(self, max_entries: int = 8 << 20):
        self.levels: list[Level] = []
        # The newest pages: many small additions would make merging dear.
        self._recent: dict[int, int] = {}
        self.next_key = 0
        self._max_entries = max_entries
        # Most pages are new, and two looks at a small table tell: a byte for each value of the
        # hashes' lowest bits and of other bits, set if it occurs. Grows with the index, forgets
        # nothing.
        self._filter = np.zeros(_FILTER_BYTES, np.bool_)

    def __len__(self) -> int:
        return len(self._recent) + sum(len(level.ids) for level in self.levels)

    def add(self, hashes: Array, ids: Array) -> None:
        """New pages."""
        self._recent.update(zip(hashes.tolist(), ids.tolist(), strict=True))
        self._mark(hashes)
        if len(self._recent) >= _RECENT:
            self._settle()

    def _slots(self, hashes: Array) -> NDArray[np.intp]:
        return (hashes & np.uint64(len(self._filter) - 1)).astype(np.intp)

    def _mark(self, hashes: Array) -> None:
        self._filter[self._slots(hashes)] = True
        self._filter[self._slots(hashes >> _OTHER_BITS)] = True

    def _marked(self, hashes: Array) -> NDArray[np.int64]:
        """Which of the hashes may be known."""
        maybe = np.flatnonzero(self._filter[self._slots(hashes)])
        if not len(maybe):
            return maybe
        return maybe[self._filter[self._slots(hashes[maybe] >> _OTHER_BITS)]]

    def _grow_filter(self) -> None:
        size = len(self._filter)
        while size < _FILTER_SHARE * len(self):
            size *= 2
        if size == len(self._filter):
            return
        self._filter = np.zeros(size, np.bool_)
        for level in self.levels:
            self._mark(level.hashes)
        if self._recent:
            self._mark(np.fromiter(self._recent.keys(), np.uint64, len(self._recent)))

    def _settle(self) -> None:
        """Make a level of the newest pages."""
        if not self._recent:
            return
        count = len(self._recent)
        hashes = np.fromiter(self._recent.keys(), np.uint64, count)
        self.levels.append(Level(hashes, np.fromiter(self._recent.values(), np.uint64, count)))
        self._recent = {}
        while len(self.levels) > 1 and self._is_mergeable():
            newer, older = self.levels.pop(), self.levels.pop()
            self.levels.append(_merged([older, newer]))
        while len(self) > self._max_entries and len(self.levels) > 1:
            del self.levels[0]
        self._grow_filter()

    def _is_mergeable(self) -> bool:
        older, newer = self.levels[-2:]
        return older.key is None and len(older.ids) < _RATIO * len(newer.ids)

    def find(self, hashes: Array) -> Array:
        """A page id proposed for each hash, 0 where there is none."""
        found = np.zeros(len(hashes), np.uint64)
        maybe = self._marked(hashes)
        if not len(maybe):
            return found
        # In order, neighbouring searches touch the same memory: twice as fast in a long level.
        order = maybe[np.argsort(hashes[maybe])]
        wanted = hashes[order]
        for level in self.levels:
            index = level.hashes.searchsorted(wanted)
            hit = np.flatnonzero(level.hashes.take(index, mode="clip") == wanted)
            if len(hit):
                found[order[hit]] = level.ids[index[hit]]
        recent = self._recent
        for place, value in zip(order.tolist(), wanted.tolist(), strict=True):
            if value in recent:
                found[place] = recent[value]
        return found

    def unkept(self) -> tuple[list[Level], list[Level]]:
        """(levels that no section keeps, the smaller kept levels to be merged with them).

        Kept levels join when there are many of their length, so that their number stays small.
        """
        self._settle()
        loose = [level for level in self.levels if level.key is None]
        kept = [level for level in self.levels if level.key is not None]
        size = sum(len(level.ids) for level in loose)
        joined: list[Level] = []
        while kept and len(kept[-1].ids) < 2 * size:
            size += len(kept[-1].ids)
            joined.append(kept.pop())
        return (loose, joined) if loose else ([], [])

    def keep(self, replaced: list[Level]) -> Level:
        """Make one level, with a key of its own, out of several."""
        merged = _merged(replaced)
        merged.key = self.next_key
        self.next_key += 1
        gone = set(map(id, replaced))
        self.levels = [level for level in self.levels if id(level) not in gone]
        self.levels.append(merged)
        self.levels.sort(key=lambda level: -len(level.ids))
        return merged

    def prune(self, is_known: Callable[[Array], NDArray[np.bool_]]) -> list[int]:
        """Forget pages that are gone, where they are many; keys whose sections are void."""
        self._settle()
        void: list[int] = []
        for number, level in enumerate(self.levels):
            known = is_known(level.ids)
            if np.count_nonzero(known) * 4 < 3 * len(known):
                if level.key is not None:
                    void.append(level.key)
                self.levels[number] = Level(level.hashes[known], level.ids[known])
        self.levels = [level for level in self.levels if len(level.ids)]
        return void

    def load(self, key: int, ids: Array, hashes: Array) -> None:
        """A level that a section keeps; goes in front of the new ones."""
        level = Level(hashes, ids, key)
        self.levels.insert(0, level)
        self.levels.sort(key=lambda level: -len(level.ids))
        self.next_key = max(self.next_key, key + 1)
        self._mark(level.hashes)
        self._grow_filter()


def _merged(levels: list[Level]) -> Level:
    hashes = np.concatenate([level.hashes for level in levels])
    return Level(hashes, np.concatenate([level.ids for level in levels]))
