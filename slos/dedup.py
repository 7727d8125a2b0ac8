"""Finding equal pages: content hash → page id, as sorted arrays that grow by merging.

The hash only proposes; whoever asks compares the bytes. Callers lock. Bounded: beyond
`max_entries` the oldest pages are no longer proposed.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from slos.format import Array

_RATIO = 8
# At least a word of the filter for each page: of ten thousand that are not there a few are looked for.
_FILTER_BITS = 13
# Odd numbers whose bits are in no order: where the products of both have ones, a page has its bits.
_MIX = (np.uint64(0x9E3779B97F4A7C15), np.uint64(0xC2B2AE3D27D4EB4F))
_RECENT = 16384
# Of so many pages each is looked for by itself among the newest ones.
_FEW = 4
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
        # The newest pages, in the order they came: many small levels would make merging dear.
        self._recent = np.zeros((2, _RECENT), np.uint64)
        self._recent_count = 0
        # Hash → id of the first of them; the rest is taken in when many are looked for.
        self._known: dict[int, int] = {}
        self._known_count = 0
        self.next_key = 0
        self._max_entries = max_entries
        # Most pages are new, and a look at a small table tells: a page sets a quarter of the bits of
        # one word, which its hash chooses. Grows with the index, forgets nothing.
        self._set_filter(_FILTER_BITS)

    def __len__(self) -> int:
        return self._recent_count + sum(len(level.ids) for level in self.levels)

    def add(self, hashes: Array, ids: Array) -> None:
        """New pages."""
        self._mark(hashes)
        done = 0
        while done < len(ids):
            begin = self._recent_count
            end = min(begin + len(ids) - done, _RECENT)
            part = slice(done, done + end - begin)
            self._recent[0, begin:end] = hashes[part]
            self._recent[1, begin:end] = ids[part]
            self._recent_count = end
            done = part.stop
            if end == _RECENT:
                self._settle()

    def _set_filter(self, bits: int) -> None:
        """An empty filter of 2^bits words."""
        self._filter = np.zeros(1 << bits, np.uint64)
        self._shift = np.uint64(64 - bits)
        # What is looked for is mostly added next.
        self._last = (_NONE, _NONE.view(np.int64), _NONE)

    def _places(self, hashes: Array) -> tuple[NDArray[np.int64], Array]:
        """(words of the filter, bits in them) of pages."""
        last, slots, patterns = self._last
        if hashes is not last:
            slots = (hashes >> self._shift).view(np.int64)
            patterns = (hashes * _MIX[0]) & (hashes * _MIX[1])
            self._last = (hashes, slots, patterns)
        return slots, patterns

    def _mark(self, hashes: Array) -> None:
        slots, patterns = self._places(hashes)
        np.bitwise_or.at(self._filter, slots, patterns)

    def _marked(self, hashes: Array) -> NDArray[np.int64]:
        """Which of the hashes may be known."""
        slots, patterns = self._places(hashes)
        marked: NDArray[np.int64] = ((self._filter[slots] & patterns) == patterns).nonzero()[0]
        return marked

    def _grow_filter(self) -> None:
        if len(self) <= len(self._filter):
            return
        self._set_filter((len(self) - 1).bit_length())
        for level in self.levels:
            self._mark(level.hashes)
        self._mark(self._recent[0, : self._recent_count])

    def _settle(self) -> None:
        """Make a level of the newest pages."""
        if not self._recent_count:
            return
        hashes, ids = self._recent[:, : self._recent_count].copy()
        self.levels.append(Level(hashes, ids))
        self._recent_count = self._known_count = 0
        self._known = {}
        while len(self.levels) > 1 and self._is_mergeable():
            newer, older = self.levels.pop(), self.levels.pop()
            self.levels.append(_merged([older, newer]))
        while len(self) > self._max_entries and len(self.levels) > 1:
            del self.levels[0]
        self._grow_filter()

    def _is_mergeable(self) -> bool:
        older, newer = self.levels[-2:]
        return older.key is None and len(older.ids) < _RATIO * len(newer.ids)

    def find(self, hashes: Array) -> Array | None:
        """A page id proposed for each hash, 0 where there is none; None where there are none at all."""
        maybe = self._marked(hashes)
        if not len(maybe):
            return None
        found = np.zeros(len(hashes), np.uint64)
        # In order, neighbouring searches touch the same memory: twice as fast in a long level.
        order = maybe[np.argsort(hashes[maybe])]
        wanted = hashes[order]
        for level in self.levels:
            index = level.hashes.searchsorted(wanted)
            hit = np.flatnonzero(level.hashes.take(index, mode="clip") == wanted)
            if len(hit):
                found[order[hit]] = level.ids[index[hit]]
        self._find_recent(order, wanted, found)
        return found if found.any() else None

    def _find_recent(self, order: NDArray[np.int64], wanted: Array, found: Array) -> None:
        """Look for pages among the newest ones."""
        hashes, ids = self._recent[:, : self._recent_count]
        if len(wanted) <= _FEW:
            for place, value in zip(order.tolist(), wanted, strict=True):
                hit = np.flatnonzero(hashes == value)
                if len(hit):
                    found[place] = ids[hit[-1]]
            return
        new = slice(self._known_count, self._recent_count)
        self._known.update(zip(hashes[new].tolist(), ids[new].tolist(), strict=True))
        self._known_count = self._recent_count
        known = self._known
        for place, value in zip(order.tolist(), wanted.tolist(), strict=True):
            if value in known:
                found[place] = known[value]

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

    def settled(self) -> list[Level]:
        """All levels, the newest pages among them."""
        self._settle()
        return list(self.levels)

    def prune(self, level: Level, is_known: Callable[[Array], NDArray[np.bool_]]) -> int | None:
        """Forget pages of a level that are gone, where they are many.

        The key of a section that is void thereby. A level that was merged meanwhile stays.
        """
        place = next((i for i, other in enumerate(self.levels) if other is level), None)
        if place is None:
            return None
        known = is_known(level.ids)
        count = int(np.count_nonzero(known))
        if count * 4 >= 3 * len(known):
            return None
        if count:
            self.levels[place] = Level(level.hashes[known], level.ids[known])
        else:
            del self.levels[place]
        return level.key

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
