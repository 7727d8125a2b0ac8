"""Reading pages and index runs out of the log: verified, cached, in the order of the device.

Knows records and page ids, no generations: what is wrong it names by page id. Thread-safe.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock
from typing import Generic, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_digest

from slos.blocks import Places
from slos.bulk import Wanted, copy_pages
from slos.catalog import Run
from slos.codec import BLOCK_BYTES
from slos.extents import EMPTY, Entries, View
from slos.format import (
    BLOCK_PAGES,
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

_SPAN_BYTES = 4 << 20
_GAP_BYTES = 64 << 10
_WINDOW_BYTES = _SPAN_BYTES + 2 * MAX_RECORD_BYTES
_BLOCK_CACHE = 128
_VIEW_CACHE_BYTES = 48 << 20
_CACHED_PAGES = 64
_SHARED_PAGES = 2048
_BULK_RECORDS = 4
_AHEAD_BYTES = 8 << 20
_DENSE = 0.85
_PAGE_RECORDS = (RecordType.PAGES, RecordType.MOVED)

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
        """Keep a value, in the place of what was there."""
        with self._lock:
            before = self._values.pop(key, None)
            self._used -= before[1] if before is not None else 0
            self._values[key] = (value, cost)
            self._used += cost
            while self._used > self._budget and len(self._values) > 1:
                self._used -= self._values.popitem(last=False)[1][1]

    def drop(self, keys: Iterable[int]) -> None:
        """Forget these values."""
        with self._lock:
            for key in keys:
                found = self._values.pop(key, None)
                if found is not None:
                    self._used -= found[1]

    def clear(self) -> None:
        with self._lock:
            self._values.clear()
            self._used = 0


class _Record(NamedTuple):
    """Pages of one record. Those of a whole block are numbered from `first`, others by `ids`."""

    first: int
    ids: Array | None
    pages: PageRows


class PageReader:
    """Pages by id; `locate` asks the block table, under the store's lock."""

    def __init__(self, log: Log, locate: Locate, pool: ThreadPoolExecutor):
        self._log = log
        self._pool = pool
        self._locate = locate
        self._cache: Cache[_Record] = Cache(_BLOCK_CACHE)
        self._buffers: list[memoryview] = []

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
        plan.is_awaited = plan.is_sparse() and self._is_cold(plan)
        if len(page_ids) >= _SHARED_PAGES and plan.is_packed():
            helper = self._pool.submit(self._work, plan, spans, out, bad)
        try:
            self._work(plan, spans, out, bad)
        finally:
            # Not started yet: the pool compresses for a writer, whom a reader does not wait for.
            if helper is not None and not helper.cancel():
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
        # Pages of fresh memory cost as much as what is read into them.
        buffer = None if cached else self._take_buffer()
        while True:
            # One thread reads at a time, so that the kernel sees a file read in its order.
            with plan.reading:
                span = next(spans, None)
                if span is None:
                    break
                first, last = span
                end = plan.starts[last] + plan.sizes[last]
                window = _Window(self._log, plan.starts[first], end, buffer)
                if buffer is not None and plan.starts[first]:
                    if plan.is_awaited:
                        self._log.device.expect(end, _AHEAD_BYTES)
                    window.fetch()
            for group in self._rest(plan, window, first, last, out):
                part = slice(plan.bounds[group], plan.bounds[group + 1])
                record = self._record(plan, window, group, cached)
                if record is None or not plan.is_met(group, record):
                    bad.append(plan.order[part])
                    continue
                out[plan.rows[part]] = record.pages[plan.slots[part]]
        if buffer is not None:
            self._buffers.append(buffer)

    def _is_cold(self, plan: "_Plan") -> bool:
        """Whether the disk is to be waited for."""
        return not self._log.device.is_cached(plan.starts[len(plan.starts) // 2])

    def _take_buffer(self) -> memoryview:
        try:
            return self._buffers.pop()
        except IndexError:
            return memoryview(bytearray(_WINDOW_BYTES))

    def _rest(
        self, plan: "_Plan", window: "_Window", first: int, last: int, out: PageRows
    ) -> Sequence[int]:
        """Groups of a span that are to be looked at one by one; the others are read after this."""
        groups = range(first, last + 1)
        if last - first < _BULK_RECORDS or plan.starts[first] == 0 or not window.data:
            return groups
        done = copy_pages(window.data, self._log.seed, plan.wanted(first, last), out)
        return [group for group, did in zip(groups, done.tolist(), strict=True) if not did]

    def _record(
        self, plan: "_Plan", window: "_Window", group: int, cached: bool
    ) -> "_Record | None":
        offset, size = plan.starts[group], plan.sizes[group]
        if offset == 0:
            return None
        if not cached:
            part = slice(plan.bounds[group], plan.bounds[group + 1])
            return window.record(offset, size, plan.slots[part])
        found = self._cache.get(offset)
        if found is not None and plan.is_met(group, found):
            return found
        # What a reader who was late put there may be what stood there before.
        found = window.record(offset, size, None)
        if found is not None:
            self._cache.put(offset, found, 1)
        return found


class _Plan:
    """A read in the order of the device: groups of pages that lie in one record."""

    def __init__(self, page_ids: Array, places: Places, rows: NDArray[np.int64]):
        self.reading = Lock()
        # The disk is asked for what comes next while this is copied.
        self.is_awaited = False
        # Records lie at multiples of more than their slots, so no two pages are equal here.
        self.order = np.argsort(places.offsets + places.slots)
        self.ids = page_ids[self.order]
        self.slots = places.slots[self.order]
        self.rows = rows[self.order]
        offsets = places.offsets[self.order]
        firsts = np.flatnonzero(np.diff(offsets, prepend=-1))
        self.bounds: list[int] = np.append(firsts, len(self.order)).tolist()
        self.starts: list[int] = offsets[firsts].tolist()
        self._sizes = places.sizes[self.order[firsts]]
        self.sizes: list[int] = self._sizes.tolist()
        self._firsts = np.append(firsts, len(self.order))
        self._places = offsets[firsts]
        self._limits = np.zeros(0, np.int64)
        self._bases = np.zeros(0, np.int64)
        if len(firsts):
            bases = self.ids.astype(np.int64) - self.slots
            same = np.maximum.reduceat(bases, firsts) == np.minimum.reduceat(bases, firsts)
            self._limits = np.maximum.reduceat(self.slots, firsts)
            self._bases = np.where(same, bases[firsts], -1)

    def wanted(self, first: int, last: int) -> Wanted:
        """The groups from `first` to `last`, with places told from the first one's on."""
        bounds = self._firsts[first : last + 2]
        pages = slice(int(bounds[0]), int(bounds[-1]))
        return Wanted(
            self._places[first : last + 1] - self._places[first],
            np.diff(bounds),
            self._limits[first : last + 1],
            self._bases[first : last + 1],
            self.slots[pages],
            self.rows[pages],
        )

    def is_packed(self) -> bool:
        """Whether most records are compressed. Of others two threads copy no more than one."""
        return sum(self.sizes) < len(self.sizes) * BLOCK_BYTES * 3 // 4

    def is_sparse(self) -> bool:
        """Whether a good part of a long read is not wanted: the kernel reads too little ahead then."""
        wanted = len(self.order) * PAGE_BYTES
        return len(self.order) >= _SHARED_PAGES and wanted < _DENSE * sum(self.sizes)

    def is_met(self, group: int, record: _Record) -> bool:
        """Whether the slots are the pages wanted: a place may have been used anew meanwhile."""
        if self._limits[group] >= len(record.pages):
            return False
        if record.ids is None:
            return record.first == int(self._bases[group])
        part = slice(self.bounds[group], self.bounds[group + 1])
        return bool((record.ids[self.slots[part]] == self.ids[part]).all())

    def spans(self) -> list[tuple[int, int]]:
        """Neighbouring groups, as (first, last), that are worth one read."""
        return _spans(self._places, self._sizes)


def _spans(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> list[tuple[int, int]]:
    """Neighbouring records, as (first, last), that are worth one read."""
    gaps = np.diff(starts) - sizes[:-1] > _GAP_BYTES
    if len(starts) and starts[0] == 0:  # What lies nowhere is no neighbour.
        gaps[:1] = True
    ends = iter([*(np.flatnonzero(gaps) + 1).tolist(), len(starts)])
    spans = []
    first = end = 0
    while first < len(starts):
        if first == end:
            end = next(ends)
        reach = int(starts.searchsorted(starts[first] + _SPAN_BYTES, side="right"))
        spans.append((first, min(end, reach) - 1))
        first = min(end, reach)
    return spans


class _Window:
    """Bytes of the log, read when the first record in them is asked for.

    With a buffer they lie there, until it is used for the next window. Where the device fails each
    record is read by itself: one sector that is lost takes no more than is in it.
    """

    def __init__(self, log: Log, start: int, end: int, buffer: memoryview | None):
        self._log = log
        self._start = start
        self._length = min(end - start, _WINDOW_BYTES)
        self._buffer = buffer
        self._data: memoryview | None = None
        self._failed = False

    @property
    def data(self) -> memoryview:
        """The bytes; none where the device failed."""
        return self.fetch() if self._data is None else self._data

    def fetch(self) -> memoryview:
        """Read the bytes now."""
        try:
            self._data = self._read()
        except OSError:
            self._data, self._failed = memoryview(b""), True
        return self._data

    def _read(self) -> memoryview:
        device, buffer = self._log.device, self._buffer
        if buffer is None:
            return memoryview(device.read(self._start, self._length))
        return buffer[: device.read_into(self._start, buffer[: self._length])]

    def record(self, offset: int, size: int, slots: NDArray[np.int64] | None) -> _Record | None:
        """The record of pages at an offset, None where there is none or a damaged one.

        With `slots` only these pages need to be right.
        """
        data = self.data[offset - self._start :]
        if self._failed:
            found = self._log.read_record(offset, min(size, MAX_RECORD_BYTES))
            return None if found is None else _decoded(*found)
        header = decode_header(data[:HEADER_BYTES], self._log.seed)
        if header is None or header.type not in _PAGE_RECORDS:
            return None
        if slots is not None and 2 * len(slots) <= header.count and _is_plain(header):
            return _some_pages(header, data[HEADER_BYTES:], slots)
        found = checked(header, data)
        return None if found is None else _decoded(*found)


def _decoded(header: Header, payload: memoryview) -> _Record | None:
    body = decode_pages(header, payload) if header.type in _PAGE_RECORDS else None
    return None if body is None else _record_of(header, payload, body)


def _record_of(header: Header, payload: memoryview, body: bytes | memoryview) -> _Record:
    pages = np.frombuffer(body, np.uint8).reshape(-1, PAGE_BYTES)
    if header.type is RecordType.PAGES:
        return _Record(header.ident * BLOCK_PAGES, None, pages)
    directory = decode_directory(header, payload)
    assert directory is not None
    return _Record(-1, directory[0], pages)


def _is_plain(header: Header) -> bool:
    """Whether pages lie in the record as they are, under numbers that the header's sum covers."""
    return header.type is RecordType.PAGES and not header.flags & RecordFlag.LZ4


def _some_pages(header: Header, payload: memoryview, slots: NDArray[np.int64]) -> _Record | None:
    """A plain record of which few pages are wanted: those are held against their own hashes."""
    start = directory_bytes(header)
    body = payload[start : start + header.raw]
    if len(body) != header.count * PAGE_BYTES or start + header.raw != header.stored:
        return None
    for slot in slots.tolist():
        at = slot * PAGE_BYTES
        if xxh3_64_digest(body[at : at + PAGE_BYTES]) != payload[slot * 8 : slot * 8 + 8]:
            return None
    return _record_of(header, payload, body)


class RunReader:
    """Runs of the index by number."""

    def __init__(self, log: Log):
        self._log = log
        self._cache: Cache[View] = Cache(_VIEW_CACHE_BYTES)

    def put(self, run_id: int, view: View) -> None:
        """A run that was just made."""
        self._cache.put(run_id, view, view.entries.entry_bytes + 512)

    def drop(self, run_ids: Iterable[int]) -> None:
        """Runs that no generation needs any more."""
        self._cache.drop(run_ids)

    def get(self, run_id: int, run: Run) -> View | None:
        """The run, None where one of its leaves is damaged."""
        view = self._cache.get(run_id)
        if view is None:
            entries = self._load(run_id, run)
            if entries is None:
                return None
            view = View(entries)
            self.put(run_id, view)
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
