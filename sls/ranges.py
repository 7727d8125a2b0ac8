"""Sets of addresses: pairs [start, end), ascending and disjoint. As lists of tuples, or as arrays where there are many.

Pure; no process in sight. An array has one row a range and two columns of unsigned 64-bit words, as the kernel's own
tables have.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

Ranges = list[tuple[int, int]]
RangeArray = NDArray[np.uint64]
Numbers = NDArray[np.uint64]

_PAGE: Final = np.uint64(4096)
NOTHING: Final[RangeArray] = np.empty((0, 2), dtype=np.uint64)


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Adjacent and overlapping ranges joined; sorts."""
    result: Ranges = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def intersection(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> Ranges:
    """What is in both; each argument ascending and disjoint."""
    result: Ranges = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            result.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return result


def difference(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> Ranges:
    """What is in `left` and not in `right`; each ascending and disjoint."""
    result: Ranges = []
    j = 0
    for start, end in left:
        while j < len(right) and right[j][1] <= start:
            j += 1
        position, k = start, j
        while k < len(right) and right[k][0] < end:
            if right[k][0] > position:
                result.append((position, right[k][0]))
            position = max(position, right[k][1])
            k += 1
        if position < end:
            result.append((position, end))
    return result


def coalesced(ranges: Iterable[tuple[int, int]], gap: int) -> Ranges:
    """Ascending ranges, joined where less than `gap` lies between them."""
    result: Ranges = []
    for start, end in ranges:
        if result and start - result[-1][1] < gap:
            result[-1] = (result[-1][0], end)
        else:
            result.append((start, end))
    return result


def total_bytes(ranges: Iterable[tuple[int, int]]) -> int:
    """Length of all ranges together."""
    return sum(end - start for start, end in ranges)


def as_array(ranges: Iterable[tuple[int, int]]) -> RangeArray:
    """The same set as an array."""
    return np.array(list(ranges), dtype=np.uint64).reshape(-1, 2)


def as_list(ranges: RangeArray) -> Ranges:
    """The same set as a list of Python's integers."""
    return [(start, end) for start, end in ranges.tolist()]


def array_bytes(ranges: NDArray[Any]) -> int:
    """`total_bytes` of an array."""
    return int((ranges[:, 1] - ranges[:, 0]).sum()) if len(ranges) else 0


def halves(ranges: RangeArray) -> tuple[RangeArray, RangeArray]:
    """The first and the second half of all bytes, cut between pages."""
    lengths = ranges[:, 1] - ranges[:, 0]
    ends = lengths.cumsum()
    middle = ends[-1] // np.uint64(2) // _PAGE * _PAGE
    index = int(np.searchsorted(ends, middle, side="right"))
    within = middle - (ends[index] - lengths[index])
    first, second = ranges[: index + 1].copy(), ranges[index:].copy()
    first[-1, 1] = second[0, 0] = ranges[index, 0] + within
    return (first if within else first[:-1]), second


def page_numbers(ranges: RangeArray) -> Numbers:
    """Numbers of all pages of byte ranges, in order."""
    assert not (ranges % _PAGE).any(), "contents are read and written in pages"
    bounds = ranges // _PAGE
    counts = (bounds[:, 1] - bounds[:, 0]).astype(np.int64)
    if not counts.sum():
        return np.empty(0, dtype=np.uint64)
    within = np.arange(counts.sum()) - np.repeat(counts.cumsum() - counts, counts)
    return np.repeat(bounds[:, 0], counts) + within.astype(np.uint64)


def pages_as_ranges(numbers: Numbers) -> RangeArray:
    """Ascending page numbers as ranges of bytes."""
    if not len(numbers):
        return NOTHING
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    starts = numbers[np.concatenate([[0], breaks])]
    ends = numbers[np.concatenate([breaks - 1, [len(numbers) - 1]])] + np.uint64(1)
    return np.stack([starts, ends], axis=1) * _PAGE
