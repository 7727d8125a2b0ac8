"""Whether page tables that were there still are: one present page of each is asked for.

The fast form of PAGEMAP_SCAN passes over a hole where a whole page table is missing, and says nothing of it. The kernel
takes tables away with their pages in MADV_DONTNEED (Linux 6.14, CONFIG_PT_RECLAIM), and a huge page leaves none behind.
So each table of memory that is scanned in that form has a *witness*, a page in it that is present; one call of
move_pages(2), which then moves nothing, tells which are missing. Single-threaded.
"""

from collections.abc import Sequence
from typing import Final

import numpy as np

from sls import syscalls
from sls.ranges import RangeArray, Ranges, as_array, intersection

TABLE_BYTES: Final = 1 << 21  # what one page table maps


class Witnesses:
    """One present page of each page table within some stretches of memory."""

    def __init__(self) -> None:
        self._places: dict[int, int] = {}  # start of what the table maps → address of the page
        self._look = syscalls.PresenceLook([])  # at all of them

    def choose(self, stretches: Ranges, present: Ranges) -> None:
        """Have one for each table in `stretches`: the one that it has, else the first of `present`."""
        known, self._places = self._places, {}
        pages = as_array(present)
        for start, end in stretches:
            tables = np.arange(start & -TABLE_BYTES, end, TABLE_BYTES, dtype=np.uint64)
            places = _first_pages(tables, pages)
            for table, place in zip(tables.tolist(), places, strict=True):
                self._places[table] = known.get(table, place or max(table, start))
        self._look = syscalls.PresenceLook([*self._places.values()])

    def replace(self, table: int, place: int | None) -> None:
        """Another page for a table; None: it has none any more."""
        if place is None:
            self._places.pop(table, None)
        else:
            self._places[table] = place
        self._look = syscalls.PresenceLook([*self._places.values()])

    @property
    def look(self) -> syscalls.PresenceLook:
        """The look at all of them; another one once any of them is another."""
        return self._look

    def missing(self, absent: Sequence[int], stretches: Ranges) -> Ranges:
        """What is mapped by tables whose witness is not there, within `stretches`. `absent`: of a `look`."""
        if not len(absent):
            return []
        tables = list(self._places)
        lost = [(tables[index], tables[index] + TABLE_BYTES) for index in absent]
        return intersection(sorted(lost), stretches)


def _first_pages(
    tables: "np.ndarray[tuple[int], np.dtype[np.uint64]]", pages: RangeArray
) -> Sequence[int]:
    """The first of `pages` within each table; 0 for none."""
    if not len(pages):
        return [0] * len(tables)
    index = np.searchsorted(pages[:, 1], tables, side="right")
    after = pages[np.minimum(index, len(pages) - 1), 0]
    places = np.maximum(after, tables)
    fits = (index < len(pages)) & (places < tables + np.uint64(TABLE_BYTES))
    found: list[int] = np.where(fits, places, 0).tolist()
    return found
