"""Reading pages and index runs out of the log: verified, cached, in the order of the device.

Knows records and page ids, no generations: what is wrong it names by page id. Thread-safe.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from slos.blocks import Places
from slos.catalog import Run
from slos.errors import device_error
from slos.extents import EMPTY, Entries, View
from slos.format import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    Array,
    Header,
    RecordFlag,
    RecordType,
    decode_directory,
    decode_header,
    decode_leaf,
    decode_pages,
    directory_bytes,
)
from slos.log import Log, checked
from slos.store import PAGE_BYTES

_SPAN_BYTES = 2 << 20
_GAP_BYTES = 64 << 10
_BLOCK_CACHE = 128
_VIEW_CACHE_BYTES = 48 << 20
_CACHED_PAGES = 64
_SHARED_PAGES = 2048

Value = TypeVar("Value")
PageRows = NDArray[np.uint8]
Locate = Callable[[Array], Places]


class Cache(Generic[Value]):
    """The most recently used values within a budget."""

    def __init__(self, budget: int):
        self._budget = budget
        self._used = 0
        self._lock = Lock()
        self._values: OrderedDict[int, tuple[Value, int]] = OrderedDict()

    def get(self, key: int) -> Value | None:
        with self._lock:
            found = self._values.get(key)
            if found is None:
                return None
            self._values.move_to_end(key)
            return found[0]

    def put(self, key: int, value: Value, cost: int) -> None:
        with self._lock:
            if key in self._values:
                return
            self._values[key] = (value, cost)
            self._used += cost
            while self._used > self._budget and len(self._values) > 1:
                self._used -= self._values.popitem(last=False)[1][1]

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._used = 0


class _Record(NamedTuple):
    """Pages of one record and their ids."""

    ids: Array
    pages: PageRows

    def holds(self, page_ids: Array, slots: NDArray[np.int64]) -> bool:
        """Whether these slots are these pages: a place may have been used anew meanwhile."""
        return int(slots.max()) < len(self.ids) and bool((self.ids[slots] == page_ids).all())


class PageReader:
    """Pages by id; `locate` asks the block table, under the store's lock."""

    def __init__(self, log: Log, locate: Locate, pool: ThreadPoolExecutor):
        self._log = log
        self._pool = pool
        self._locate = locate
        self._cache: Cache[_Record] = Cache(_BLOCK_CACHE)

    def clear(self) -> None:
        """Forget what was cached: offsets are used anew."""
        self._cache.clear()

    def read(self, page_ids: Array, out: PageRows, rows: NDArray[np.int64]) -> Array:
        """Fill `out[rows[i]]` with page `page_ids[i]`; the ids that could not be read.

        Collection may move pages while they are read: a record that is found wrong is looked up
        once more before it counts as damaged.
        """
        places = self._locate(page_ids)
        bad = self._read(page_ids, places, out, rows)
        for _ in range(3):
            if not len(bad):
                break
            again = self._locate(page_ids[bad])
            moved = again.offsets != places.offsets[bad]
            if not moved.any():
                break
            places.offsets[bad] = again.offsets
            places.slots[bad] = again.slots
            places.sizes[bad] = again.sizes
            bad = np.concatenate(
                [bad[~moved], self._read_some(page_ids, places, out, rows, bad[moved])]
            )
        return page_ids[np.sort(bad)]

    def _read_some(
        self,
        page_ids: Array,
        places: Places,
        out: PageRows,
        rows: NDArray[np.int64],
        which: NDArray[np.int64],
    ) -> NDArray[np.int64]:
        part = Places(*(column[which] for column in places))
        return which[self._read(page_ids[which], part, out, rows[which])]

    def _read(
        self, page_ids: Array, places: Places, out: PageRows, rows: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Indices into `page_ids` of what could not be read."""
        plan = _Plan(page_ids, places, rows)
        spans = iter(plan.spans())
        bad: list[NDArray[np.int64]] = []
        helper = None
        if len(page_ids) >= _SHARED_PAGES:
            helper = self._pool.submit(self._work, plan, spans, out, bad)
        try:
            self._work(plan, spans, out, bad)
        finally:
            if helper is not None:
                helper.result()
        return np.concatenate(bad) if bad else np.zeros(0, np.int64)

    def _work(
        self,
        plan: "_Plan",
        spans: Iterator[tuple[int, int]],
        out: PageRows,
        bad: list[NDArray[np.int64]],
    ) -> None:
        """Read spans until there are none left; another thread may take some of them."""
        cached = len(plan.order) <= _CACHED_PAGES
        for first, last in spans:
            end = plan.starts[last] + plan.sizes[last]
            window = _Window(self._log, plan.starts[first], end)
            for group in range(first, last + 1):
                part = slice(plan.bounds[group], plan.bounds[group + 1])
                slots = plan.slots[part]
                record = self._record(window, plan.starts[group], slots, cached)
                if record is None or not record.holds(plan.ids[part], slots):
                    bad.append(plan.order[part])
                elif plan.straight[group]:
                    row, slot = int(plan.rows[part.start]), int(slots[0])
                    out[row : row + len(slots)] = record.pages[slot : slot + len(slots)]
                else:
                    out[plan.rows[part]] = record.pages[slots]

    def _record(
        self, window: "_Window", offset: int, slots: NDArray[np.int64], cached: bool
    ) -> "_Record | None":
        if offset == 0:
            return None
        if not cached:
            return window.record(offset, slots)
        found = self._cache.get(offset)
        if found is None:
            found = window.record(offset, None)
            if found is not None:
                self._cache.put(offset, found, 1)
        return found


class _Plan:
    """A read in the order of the device: groups of pages that lie in one record."""

    def __init__(self, page_ids: Array, places: Places, rows: NDArray[np.int64]):
        self.order = np.argsort(places.offsets, kind="stable")
        self.ids = page_ids[self.order]
        self.slots = places.slots[self.order]
        self.rows = rows[self.order]
        offsets = places.offsets[self.order]
        firsts = np.flatnonzero(np.diff(offsets, prepend=-1))
        self.bounds: list[int] = np.append(firsts, len(self.order)).tolist()
        self.starts: list[int] = offsets[firsts].tolist()
        self.sizes: list[int] = places.sizes[self.order[firsts]].tolist()
        # Whether a group's slots and rows both go up by one: then a slice copies it.
        breaks = (np.diff(self.slots) != 1) | (np.diff(self.rows) != 1)
        breaks = np.concatenate([[False], breaks])
        breaks[firsts] = False
        self.straight: list[bool] = []
        if len(firsts):
            self.straight = (~np.logical_or.reduceat(breaks, firsts)).tolist()

    def spans(self) -> list[tuple[int, int]]:
        """Neighbouring groups, as (first, last), that are worth one read."""
        return _spans(self.starts, self.sizes)


def _spans(starts: list[int], sizes: list[int]) -> list[tuple[int, int]]:
    """Neighbouring records, as (first, last), that are worth one read."""
    spans = []
    first = 0
    for index in range(1, len(starts) + 1):
        if (
            index == len(starts)
            or starts[index] - starts[index - 1] - sizes[index - 1] > _GAP_BYTES
            or starts[index] - starts[first] > _SPAN_BYTES
            or starts[first] == 0
        ):
            spans.append((first, index - 1))
            first = index
    return spans


class _Window:
    """Bytes of the log, read when the first record in them is asked for."""

    def __init__(self, log: Log, start: int, end: int):
        self._log = log
        self._start = start
        self._length = min(end - start, _SPAN_BYTES + 2 * MAX_RECORD_BYTES)
        self._data: memoryview | None = None

    def record(self, offset: int, slots: NDArray[np.int64] | None) -> _Record | None:
        """The record of pages at an offset, None where there is none or a damaged one.

        With `slots` only these pages need to be right.
        """
        if self._data is None:
            try:
                self._data = memoryview(self._log.device.read(self._start, self._length))
            except OSError as error:
                raise device_error(error, "reading the store", offset) from error
        data = self._data[offset - self._start :]
        header = decode_header(data[:HEADER_BYTES], self._log.seed)
        if header is None or header.type not in (RecordType.PAGES, RecordType.MOVED):
            return None
        if slots is not None and 2 * len(slots) <= header.count and _is_plain(header):
            return _some_pages(header, data[HEADER_BYTES:], slots)
        found = checked(header, data)
        if found is None:
            return None
        directory = decode_directory(*found)
        body = decode_pages(*found)
        if directory is None or body is None:
            return None
        return _Record(directory[0], np.frombuffer(body, np.uint8).reshape(-1, PAGE_BYTES))


def _is_plain(header: Header) -> bool:
    """Whether pages lie in the record as they are, under numbers that the header's sum covers."""
    return header.type is RecordType.PAGES and not header.flags & RecordFlag.LZ4


def _some_pages(header: Header, payload: memoryview, slots: NDArray[np.int64]) -> _Record | None:
    """A plain record of which few pages are wanted: those are held against their own hashes."""
    directory = decode_directory(header, payload)
    start = directory_bytes(header)
    body = payload[start : start + header.raw]
    if directory is None or len(body) != header.raw or start + header.raw != header.stored:
        return None
    for slot in slots.tolist():
        at = slot * PAGE_BYTES
        if xxh3_64_digest(body[at : at + PAGE_BYTES]) != payload[slot * 8 : slot * 8 + 8]:
            return None
    return _Record(directory[0], np.frombuffer(body, np.uint8).reshape(-1, PAGE_BYTES))


class RunReader:
    """Runs of the index by number."""

    def __init__(self, log: Log):
        self._log = log
        self._cache: Cache[View] = Cache(_VIEW_CACHE_BYTES)

    def put(self, run_id: int, entries: Entries) -> View:
        """A run that was just made."""
        view = View(entries)
        self._cache.put(run_id, view, entries.entry_bytes + 512)
        return view

    def get(self, run_id: int, run: Run) -> View | None:
        """The run, None where one of its leaves is damaged."""
        view = self._cache.get(run_id)
        if view is None:
            entries = self._load(run_id, run)
            if entries is None:
                return None
            view = self.put(run_id, entries)
        return view

    def _load(self, run_id: int, run: Run) -> Entries | None:
        leaves = []
        for place, (offset, size) in enumerate(zip(run.leaves, run.sizes, strict=True)):
            leaf = self.read_leaf(run_id, place, offset, size)
            if leaf is None:
                return None
            leaves.append(leaf)
        if not leaves:
            return EMPTY
        if len(leaves) == 1:
            return Entries(*leaves[0])
        return Entries(*(np.concatenate(columns) for columns in zip(*leaves, strict=True)))

    def read_leaf(self, run_id: int, place: int, offset: int, size: int) -> list[Array] | None:
        """The columns of one leaf, None where it is damaged or another's."""
        found = self._log.read_record(offset, min(size, MAX_RECORD_BYTES))
        if found is None or found[0].ident != run_id or found[0].context >> 32 != place:
            return None
        return decode_leaf(*found)
