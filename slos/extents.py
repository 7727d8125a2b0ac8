"""The copy-on-write index: runs of (object, page) → page id, newest wins.

A generation is a list of runs, oldest first. A commit adds one run with what it changed; when
eight runs of one size class end the list they are merged into one, so that a generation costs what
it changed and is read through a number of runs that grows with the logarithm of its history. Runs
are immutable and shared by generations. Pure: no file, no lock.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from slos.format import LEAF_ENTRIES, SIZE_PAGE, Array, Draft, encode_leaf

FANOUT = 8
_CLASS_ENTRIES = 256
_INDEXED_OBJECTS = 256
_NONE = np.zeros(0, np.uint64)


class Entries(NamedTuple):
    """Columns of equal length, ascending by (object, page), each key once; id 0 is a hole."""

    objects: Array
    pages: Array
    ids: Array

    @property
    def entry_bytes(self) -> int:
        """Memory that they take."""
        return 24 * len(self.ids)


EMPTY = Entries(_NONE, _NONE, _NONE)


class Part(NamedTuple):
    """Pages of one object, in any order; id 0 is a hole."""

    object_id: int
    pages: Array
    ids: Array


class View:
    """Entries with the place of each object's part found, and whether there are holes."""

    __slots__ = ("_index", "entries", "holes", "objects", "starts")

    def __init__(self, entries: Entries):
        self.entries = entries
        self.holes = not entries.ids.all()
        column = entries.objects
        self.objects, self.starts = column[:1], [0, len(column)]
        if len(column) and column[0] != column[-1]:
            firsts = np.flatnonzero(np.diff(column, prepend=~column[:1]))
            self.objects, self.starts = column[firsts], [*firsts.tolist(), len(column)]
        few = len(self.objects) <= _INDEXED_OBJECTS
        places = zip(self.objects.tolist(), range(len(self.objects)), strict=True)
        self._index = dict(places) if few else None

    def part(self, object_id: int) -> tuple[Array, Array]:
        """(pages, ids) of one object."""
        index = self._place(object_id)
        if index is None:
            return _NONE, _NONE
        span = slice(self.starts[index], self.starts[index + 1])
        return self.entries.pages[span], self.entries.ids[span]

    def data(self, object_id: int) -> tuple[Array, Array]:
        """(pages, ids) of one object without its size, which is the last entry."""
        pages, ids = self.part(object_id)
        if len(pages) and int(pages[-1]) == SIZE_PAGE:
            return pages[:-1], ids[:-1]
        return pages, ids

    def _place(self, object_id: int) -> int | None:
        if self._index is not None:
            return self._index.get(object_id)
        index = int(self.objects.searchsorted(np.uint64(object_id)))
        known = index < len(self.objects) and self.objects[index] == object_id
        return index if known else None

    def size(self, object_id: int) -> int | None:
        """What stands at an object's SIZE_PAGE, None where the run says nothing about it."""
        pages, ids = self.part(object_id)
        return int(ids[-1]) if len(pages) and int(pages[-1]) == SIZE_PAGE else None

    def slice(self, object_id: int, first: int, last: int) -> tuple[Array, Array]:
        """(pages, ids) of one object with first ≤ page < last."""
        pages, ids = self.part(object_id)
        if not len(pages):
            return pages, ids
        low, high = pages.searchsorted(np.array([first, last], np.uint64))
        return pages[low:high], ids[low:high]

    def solid(self, object_id: int) -> tuple[int, int] | None:
        """The pages (first, end) of one object, if the run speaks of all between its ends."""
        pages, _ = self.data(object_id)
        if len(pages) and _is_gapless(pages):
            return int(pages[0]), int(pages[-1]) + 1
        return None

    def get(self, object_id: int, page: int) -> int | None:
        """The id at one key, None where the run says nothing about it."""
        pages, ids = self.part(object_id)
        index = int(pages.searchsorted(np.uint64(page)))
        if index == len(pages) or pages[index] != page:
            return None
        return int(ids[index])

    def find(self, object_id: int, wanted: Array) -> tuple[NDArray[np.bool_], Array]:
        """(which pages of one object the run speaks of, the ids of those)."""
        pages, ids = self.part(object_id)
        if not len(pages):
            return np.zeros(len(wanted), np.bool_), _NONE
        if _is_gapless(pages):
            known = self.knows(object_id, wanted)
            return known, ids[(wanted[known] - pages[0]).astype(np.intp)]
        index = pages.searchsorted(wanted)
        known = pages.take(index, mode="clip") == wanted
        return known, ids[index[known]]

    def knows(self, object_id: int, wanted: Array) -> NDArray[np.bool_]:
        """Which pages of one object the run speaks of; of a gapless row no entry is looked at."""
        pages, _ = self.part(object_id)
        if len(pages) and _is_gapless(pages):
            return np.asarray((wanted >= pages[0]) & (wanted <= pages[-1]), np.bool_)
        return self.find(object_id, wanted)[0]


def _is_gapless(pages: Array) -> bool:
    return int(pages[-1] - pages[0]) == len(pages) - 1


def entries_of(parts: Sequence[Part]) -> Entries:
    """Entries of several parts, sorted; of equal keys the last one given wins."""
    owners = [part.object_id for part in parts]
    pages = np.concatenate([part.pages for part in parts])
    ids = np.concatenate([part.ids for part in parts])
    if owners.count(owners[0]) == len(owners):
        objects = np.empty(len(ids), np.uint64)
        objects[:] = owners[0]
        if (pages[1:] > pages[:-1]).all():
            return Entries(objects, pages, ids)
    else:
        objects = np.array(owners, np.uint64).repeat([len(part.ids) for part in parts])
    return sort_entries(objects, pages, ids)


def sort_entries(objects: Array, pages: Array, ids: Array) -> Entries:
    """Sort by key; of equal keys the last one given wins."""
    if not len(ids):
        return EMPTY
    one = bool((objects == objects[0]).all())
    ascend = pages[1:] > pages[:-1]
    if not one:
        ascend = (objects[1:] > objects[:-1]) | (ascend & (objects[1:] == objects[:-1]))
    if ascend.all():
        return Entries(objects, pages, ids)
    order = np.argsort(pages, kind="stable") if one else np.lexsort((pages, objects))
    objects, pages, ids = objects[order], pages[order], ids[order]
    last = np.ones(len(ids), np.bool_)
    last[:-1] = (pages[1:] != pages[:-1]) | (objects[1:] != objects[:-1])
    return Entries(objects[last], pages[last], ids[last])


def merge_runs(runs: Sequence[Entries], *, base: bool) -> Entries:
    """One run out of several, oldest first; at the base of a list holes need no entry."""
    if len(runs) == 1 and not base:
        return runs[0]
    merged = sort_entries(
        np.concatenate([run.objects for run in runs]),
        np.concatenate([run.pages for run in runs]),
        np.concatenate([run.ids for run in runs]),
    )
    if not base or merged.ids.all():
        return merged
    held = merged.ids != 0
    return Entries(merged.objects[held], merged.pages[held], merged.ids[held])


def merge_slices(slices: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """(pages, ids) of one object out of its parts in several runs, oldest first; no holes."""
    parts = [part for part in slices if len(part[0])]
    if not parts:
        return _NONE, _NONE
    pages, ids = parts[0]
    if len(parts) > 1:
        pages, ids = _overlaid(parts) if _spans(pages, parts[1:]) else _sorted_last(parts)
    held = ids != 0
    return (pages, ids) if held.all() else (pages[held], ids[held])


def _spans(pages: Array, parts: Sequence[tuple[Array, Array]]) -> bool:
    """Whether these pages are a row without gaps that holds those of the parts."""
    return _is_gapless(pages) and all(
        pages[0] <= part[0][0] and part[0][-1] <= pages[-1] for part in parts
    )


def _overlaid(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """Newer parts laid over the first, which holds all their pages."""
    pages, ids = parts[0][0], parts[0][1].copy()
    for newer, own in parts[1:]:
        ids[(newer - pages[0]).astype(np.intp)] = own
    return pages, ids


def _sorted_last(parts: Sequence[tuple[Array, Array]]) -> tuple[Array, Array]:
    """The pages of all parts, each with the last of its ids."""
    pages = np.concatenate([part[0] for part in parts])
    ids = np.concatenate([part[1] for part in parts])
    order = np.argsort(pages, kind="stable")
    pages, ids = pages[order], ids[order]
    last = np.ones(len(pages), np.bool_)
    last[:-1] = pages[1:] != pages[:-1]
    return pages[last], ids[last]


def without_sizes(entries: Entries) -> Array:
    """The page ids of the entries: neither holes nor sizes of objects."""
    data = (entries.pages != SIZE_PAGE) & (entries.ids != 0)
    return np.compress(data, entries.ids)


def size_class(entries: int) -> int:
    """Runs of one class differ in length by less than FANOUT."""
    level = 0
    while entries >= _CLASS_ENTRIES:
        entries //= FANOUT
        level += 1
    return level


def merge_count(lengths: Sequence[int]) -> int:
    """How many runs at the end of a list to merge into one; 0 or 1 for none."""
    level = size_class(lengths[-1])
    count = 0
    for length in reversed(lengths):
        if size_class(length) > level:
            break
        count += 1
    return count if count >= FANOUT else 0


def encode_run(entries: Entries) -> list[Draft]:
    """A run's leaves as records; its number comes with its place."""
    total = -(-len(entries.ids) // LEAF_ENTRIES)
    return [
        encode_leaf(
            entries.objects[start : start + LEAF_ENTRIES],
            entries.pages[start : start + LEAF_ENTRIES],
            entries.ids[start : start + LEAF_ENTRIES],
            number,
            total,
        )
        for number, start in enumerate(range(0, len(entries.ids), LEAF_ENTRIES))
    ]
