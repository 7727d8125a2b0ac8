"""Reading pages and index runs out of the log: verified, cached, in the order of the device.

Knows records and page ids, no generations: what is wrong it names by page id. Thread-safe.
"""

from collections import OrderedDict
from collections.abc import Callable
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from slos.blocks import Places
from slos.catalog import Run
from slos.errors import device_error
from slos.extents import EMPTY, Entries, View
from slos.format import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    Array,
    RecordType,
    decode_directory,
    decode_header,
    decode_leaf,
    decode_pages,
)
from slos.log import Log, checked
from slos.store import PAGE_BYTES

_SPAN_BYTES = 2 << 20
_GAP_BYTES = 64 << 10
_BLOCK_CACHE = 128
_VIEW_CACHE_BYTES = 48 << 20
_CACHED_PAGES = 64

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

    def __init__(self, log: Log, locate: Locate):
        self._log = log
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
        order = np.argsort(places.offsets, kind="stable")
        offsets = places.offsets[order]
        firsts = np.flatnonzero(np.diff(offsets, prepend=-1))
        bounds = np.append(firsts, len(order)).tolist()
        starts = offsets[firsts].tolist()
        sizes = places.sizes[order[firsts]].tolist()
        bad: list[NDArray[np.int64]] = []
        for first, last in _spans(starts, sizes):
            window = _Window(self._log, starts[first], starts[last] + sizes[last])
            for group in range(first, last + 1):
                which = order[bounds[group] : bounds[group + 1]]
                record = self._record(window, starts[group], len(order) <= _CACHED_PAGES)
                slots = places.slots[which]
                if record is None or not record.holds(page_ids[which], slots):
                    bad.append(which)
                else:
                    out[rows[which]] = record.pages[slots]
        return np.concatenate(bad) if bad else np.zeros(0, np.int64)

    def _record(self, window: "_Window", offset: int, cached: bool) -> "_Record | None":
        if offset == 0:
            return None
        found = self._cache.get(offset) if cached else None
        if found is None:
            found = window.record(offset)
            if found is not None and cached:
                self._cache.put(offset, found, 1)
        return found


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

    def record(self, offset: int) -> _Record | None:
        """The record of pages at an offset, None where there is none or a damaged one."""
        if self._data is None:
            try:
                self._data = memoryview(self._log.device.read(self._start, self._length))
            except OSError as error:
                raise device_error(error, "reading the store", offset) from error
        data = self._data[offset - self._start :]
        header = decode_header(data[:HEADER_BYTES], self._log.seed)
        if header is None or header.type not in (RecordType.PAGES, RecordType.MOVED):
            return None
        found = checked(header, data)
        if found is None:
            return None
        directory = decode_directory(*found)
        body = decode_pages(*found)
        if directory is None or body is None:
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
