"""A generation in the making: writes gathered, appended as they grow, committed at once.

Used from one thread at a time. Nothing of it is visible before `commit`; data that was appended
for a transaction that ends without one is garbage, which collection finds. One file in spite of
its length: every method keeps the same stages (what lies in the log, what waits, parts of pages)
in step.
"""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import wait as wait_all
from itertools import pairwise
from mmap import mmap
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import msgspec
import numpy as np

from slos import ingest
from slos.catalog import CommitRecord, Generation, Run
from slos.codec import StreamCompressor
from slos.core import COMPRESS_THREADS, Core
from slos.errors import InvalidRequestError
from slos.extents import (
    EMPTY,
    Entries,
    Part,
    View,
    encode_run,
    entries_of,
    merge_count,
    merge_runs,
)
from slos.format import BLOCK_PAGES, SIZE_PAGE, U64, Array, Draft, RecordType
from slos.request import as_bytes, check_note, check_object, check_range, not_found
from slos.store import PAGE_BYTES, Buffer, Fill, GenerationInfo, PageNumbers

_FLUSH_BYTES = 4 << 20
_DIRECT_BYTES = 256 << 10
_FLUSH_PARTIAL = 1024
# Pieces under way: one is written, one waits for that, the rest are compressed.
_PIPELINE = COMPRESS_THREADS + 2
_PIECE_PAGES = _FLUSH_BYTES // PAGE_BYTES
_EDGE_PAGES = 256
_ZERO_PAGE = bytes(PAGE_BYTES)
_SIZE_PAGES = np.array([SIZE_PAGE], U64)
_encode = msgspec.msgpack.Encoder().encode


class Stamp(NamedTuple):
    """What a commit is called."""

    epoch: int
    parent: int
    time_ns: int
    name: str
    note: bytes


class _Pieces(Protocol):
    """Where a long write takes its pieces from, one after the other."""

    def piece(self, first: int, end: int) -> memoryview:
        """The pages from `first` on, up to `end`."""


class _Given:
    """Pieces of data that is there."""

    def __init__(self, data: memoryview):
        self._data = data

    def piece(self, first: int, end: int) -> memoryview:
        return self._data[first * PAGE_BYTES : end * PAGE_BYTES]


class _Filled:
    """Pieces that are brought when their turn comes, in buffers that are used again once they are written."""

    def __init__(self, fill: Fill, count: int):
        self._fill = fill
        # All that are under way, and the one that is being filled.
        buffers = min(_PIPELINE + 1, len(_cuts(count)) - 1)
        self._buffers = [memoryview(mmap(-1, _FLUSH_BYTES)) for _ in range(buffers)]
        self._turn = 0

    def piece(self, first: int, end: int) -> memoryview:
        self._turn = (self._turn + 1) % len(self._buffers)
        view = self._buffers[self._turn][: (end - first) * PAGE_BYTES]
        self._fill(first, view)
        return view


def _cuts(count: int) -> list[int]:
    """Where a long write of so many pages is cut into pieces, both ends included.

    The first piece and the last are short: until the one is hashed nothing is compressed, and while
    the other is written nothing is.
    """
    last = max(0, count - _EDGE_PAGES) // BLOCK_PAGES * BLOCK_PAGES
    edges = {0, min(_EDGE_PAGES, count), last, count}
    return sorted(edges | set(range(_EDGE_PAGES, last, _PIECE_PAGES)))


class ObjectTransaction:
    """A transaction of an ObjectStore."""

    def __init__(
        self,
        core: Core,
        oid: int,
        parent: Generation | None,
        committed: Callable[[bool], None],
    ):
        self._core = core
        self._committed = committed
        self._oid = oid
        self._parent = parent
        self._open = True
        # In order: what lies in the log (as views, of the newest as parts), what waits, parts of pages.
        self._views: list[View] = []
        self._parts: list[Part] = []
        self._pending: list[tuple[int, Array, memoryview]] = []
        self._pending_bytes = 0
        self._partial: dict[tuple[int, int], bytearray] = {}
        # Records of the last write that are appended with what comes next: mostly the commit.
        self._ready = ingest.EMPTY
        self._sizes: dict[int, int | None] = {}
        self._held: list[Array] = []
        self._first_block: int | None = None
        self._stored_bytes = 0
        self._compressor = StreamCompressor()
        with core.lock:
            core.enter(self)
            if parent is not None:
                core.catalog.pin(parent)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def held_pages(self) -> list[Array]:
        return self._held

    def first_block(self) -> int | None:
        return self._first_block

    def write(self, object_id: int, offset: int, data: Buffer) -> None:
        view = as_bytes(data)
        check_range(offset, len(view))
        self._grow(object_id, offset + len(view) if view else 0)
        end = offset + len(view)
        head = min(end, -(-offset // PAGE_BYTES) * PAGE_BYTES)
        tail = max(head, end // PAGE_BYTES * PAGE_BYTES)
        if offset < head:
            self._write_part(object_id, offset, view[: head - offset])
        if head < tail:
            first, last = head // PAGE_BYTES, tail // PAGE_BYTES
            numbers = np.arange(first, last, dtype=np.uint64)
            self._add_pages(object_id, numbers, view[head - offset : tail - offset])
        if tail < end:
            self._write_part(object_id, tail, view[tail - offset :])

    def write_pages(self, object_id: int, page_numbers: PageNumbers, data: Buffer) -> None:
        view = as_bytes(data)
        numbers = np.asarray(page_numbers, dtype=np.uint64)
        if len(view) != len(numbers) * PAGE_BYTES:
            raise InvalidRequestError(f"{len(numbers)} pages, but {len(view)} bytes")
        end = (int(numbers.max()) + 1) * PAGE_BYTES if len(numbers) else 0
        check_range(0, end)
        self._grow(object_id, end)
        self._add_pages(object_id, numbers, view)

    def stream_pages(self, object_id: int, page_numbers: PageNumbers, fill: Fill) -> None:
        numbers = np.asarray(page_numbers, dtype=np.uint64)
        if not len(numbers):
            return
        end = (int(numbers.max()) + 1) * PAGE_BYTES
        check_range(0, end)
        self._grow(object_id, end)
        self._forget_parts(object_id, numbers)
        self._flush()
        self._stream(object_id, numbers, _Filled(fill, len(numbers)))

    def discard(self, object_id: int, offset: int, length: int) -> None:
        check_range(offset, length)
        size = self._existing_size(object_id)
        self._discard(object_id, offset, min(offset + length, size))

    def truncate(self, object_id: int, size: int) -> None:
        check_range(0, size)
        old = self._size(object_id)
        if old is not None and size < old:
            self._discard(object_id, size, old)
        self._sizes[object_id] = size

    def put(self, object_id: int, data: Buffer) -> None:
        view = as_bytes(data)
        check_range(0, len(view))
        if self._size(object_id) is not None:
            self._discard(object_id, 0, SIZE_PAGE)
        self._sizes[object_id] = 0
        self.write(object_id, 0, view)

    def remove(self, object_id: int) -> None:
        self._existing_size(object_id)
        self._discard(object_id, 0, SIZE_PAGE)
        self._sizes[object_id] = None

    def clone(self, object_id: int, source_oid: int, source_epoch: int, source_object: int) -> None:
        core = self._core
        with core.lock:
            source = core.catalog.generation(source_oid, source_epoch)
            core.catalog.pin(source)
        try:
            size = core.size_of(source, source_object)
            if size is None:
                raise not_found(source_oid, source_epoch, source_object)
            pages, ids = core.pages_of(source, source_object)
            if self._size(object_id) is not None:
                self._discard(object_id, 0, SIZE_PAGE)
            with core.lock:
                self._held.append(ids)
                if core.on_reference is not None:
                    core.on_reference(ids)
        finally:
            with core.lock:
                core.catalog.unpin(source)
        self._add_ids(object_id, pages, ids)
        self._sizes[object_id] = size

    def commit(self, *, wait: bool = True, name: str = "", note: bytes = b"") -> GenerationInfo:
        check_note(name, note)
        parent = self._parent.record.epoch if self._parent else 0
        return self.commit_as(Stamp(0, parent, time.time_ns(), name, bytes(note)), wait=wait)

    def commit_as(self, stamp: "Stamp", *, wait: bool) -> GenerationInfo:
        """Commit under a given epoch, for copies; 0 takes the next one."""
        self._check_open()
        core = self._core
        core.check_writable()
        try:
            self._fold_partial()
            generation = self._commit(self._prepare(), stamp)
        except BaseException:
            self.abort()
            raise
        self._end(committed=True)
        if wait:
            core.wait_durable(generation.lsn)
        self._committed(wait)
        return generation.info(core.log.durable_lsn)

    def abort(self) -> None:
        """Discard the transaction; harmless after its end."""
        self._end(committed=False)

    def _end(self, *, committed: bool) -> None:
        if not self._open:
            return
        self._open = False
        if not committed:
            self._core.catalog.deleted_bytes += self._stored_bytes
        self._views, self._parts, self._pending, self._partial = [], [], [], {}
        self._ready = ingest.EMPTY
        core = self._core
        with core.lock:
            core.leave(self)
            if self._parent is not None:
                core.catalog.unpin(self._parent)

    def _check_open(self) -> None:
        if not self._open:
            raise InvalidRequestError("this transaction has ended; begin a new one")

    def _size(self, object_id: int) -> int | None:
        self._check_open()
        check_object(object_id)
        if object_id in self._sizes:
            return self._sizes[object_id]
        return None if self._parent is None else self._core.size_of(self._parent, object_id)

    def _existing_size(self, object_id: int) -> int:
        size = self._size(object_id)
        if size is None:
            raise not_found(self._oid, self._parent.record.epoch if self._parent else 0, object_id)
        return size

    def _grow(self, object_id: int, end: int) -> None:
        # Set even where it stays: the newest run then tells it, no older one is asked.
        self._sizes[object_id] = max(self._size(object_id) or 0, end)

    def _add_pages(self, object_id: int, numbers: Array, data: memoryview) -> None:
        """Whole pages; the data is copied or appended before this returns."""
        self._forget_parts(object_id, numbers)
        if len(data) >= _DIRECT_BYTES:
            # Appending at once costs less than a copy.
            self._flush()
            if len(data) > _FLUSH_BYTES:
                self._stream(object_id, numbers, _Given(data))
            else:
                batch = self._ingest(data, ingest.examine(data))
                self._parts.append(Part(object_id, numbers, batch.ids))
                if batch.is_own():
                    self._ready = batch
                else:
                    self._append(batch)
            return
        self._pending.append((object_id, numbers, memoryview(bytes(data))))
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def _forget_parts(self, object_id: int, numbers: Array) -> None:
        if self._partial:
            for number in numbers.tolist():
                self._partial.pop((object_id, number), None)

    def _add_ids(self, object_id: int, numbers: Array, ids: Array) -> None:
        """Pages that lie in the log, or holes; behind all that came before."""
        if len(ids):
            self._flush()
            self._parts.append(Part(object_id, numbers, ids))

    def _stream(self, object_id: int, numbers: Array, pieces: "_Pieces") -> None:
        """A long piece: one part is hashed while the last is compressed and an older written."""
        waiting: deque[tuple[Future[None], set[int]]] = deque()
        try:
            for start, end in pairwise(_cuts(len(numbers))):
                part = numbers[start:end]
                piece = pieces.piece(start, end)
                examined = ingest.examine(piece)
                hashes = examined.distinct
                # Pages that are not written yet cannot be shared.
                while len(waiting) >= _PIPELINE or any(
                    not hashes.isdisjoint(own) for _, own in waiting
                ):
                    waiting.popleft()[0].result()
                batch = self._ingest(piece, examined, self._compressor)
                waiting.append((self._core.writer.submit(self._append, batch), hashes))
                self._parts.append(Part(object_id, part, batch.ids))
        finally:
            # The data is the caller's: nothing refers to it when this returns.
            wait_all([future for future, _ in waiting])
        for future, _ in waiting:
            future.result()

    def _ingest(
        self,
        data: memoryview,
        examined: ingest.Examined,
        compressor: StreamCompressor | None = None,
    ) -> ingest.Batch:
        if self._first_block is None:
            with self._core.lock:
                self._first_block = self._core.catalog.next_block
        return ingest.prepare(self._core, data, examined, self._held, compressor)

    def _append(self, batch: ingest.Batch) -> None:
        core = self._core
        if batch.drafts:
            core.append(batch.drafts, lambda offsets, _: ingest.register(core, batch, offsets))
            self._stored_bytes += sum(draft.record_bytes for draft in batch.drafts)

    def _take_ready(self) -> ingest.Batch:
        ready, self._ready = self._ready, ingest.EMPTY
        return ready

    def _prepare(self) -> ingest.Batch:
        """What waits, as a batch; its pages join the parts."""
        pending, self._pending, self._pending_bytes = self._pending, [], 0
        if not pending:
            return self._take_ready()
        self._append(self._take_ready())
        data = pending[0][2]
        if len(pending) > 1:
            data = memoryview(b"".join([part[2] for part in pending]))
        batch = self._ingest(data, ingest.examine(data))
        first = 0
        for object_id, numbers, _ in pending:
            ids = batch.ids[first : first + len(numbers)]
            self._parts.append(Part(object_id, numbers, ids))
            first += len(numbers)
        return batch

    def _flush(self) -> None:
        self._append(self._prepare())

    # Parts of pages are kept until the transaction ends or there are many of them.

    def _write_part(self, object_id: int, offset: int, data: memoryview) -> None:
        number, start = divmod(offset, PAGE_BYTES)
        page = self._partial.get((object_id, number))
        if page is None:
            page = self._partial[object_id, number] = self._page(object_id, number)
        page[start : start + len(data)] = data
        if len(self._partial) >= _FLUSH_PARTIAL:
            self._fold_partial()
            self._flush()

    def _fold_partial(self) -> None:
        partial, self._partial = self._partial, {}
        for object_id in {key[0] for key in partial}:
            numbers = sorted(number for owner, number in partial if owner == object_id)
            data = b"".join([partial[object_id, number] for number in numbers])
            self._pending.append((object_id, np.array(numbers, np.uint64), memoryview(data)))
            self._pending_bytes += len(data)

    def _page(self, object_id: int, number: int) -> bytearray:
        """What the transaction sees at a page."""
        for owner, numbers, data in reversed(self._pending):
            found = np.flatnonzero(numbers == number)
            if owner == object_id and len(found):
                start = int(found[-1]) * PAGE_BYTES
                return bytearray(data[start : start + PAGE_BYTES])
        self._append(self._take_ready())
        page_id = self._page_id(object_id, number)
        page = np.zeros((1, PAGE_BYTES), np.uint8)
        if page_id:
            ids = np.array([page_id], np.uint64)
            if len(self._core.reader.read(ids, page, np.zeros(1, np.int64))):
                assert self._parent is not None
                raise self._core.damaged(self._parent, object_id, page_id, number)
        return bytearray(page.tobytes())

    def _page_id(self, object_id: int, number: int) -> int:
        for view in reversed(self._all_views()):
            found = view.get(object_id, number)
            if found is not None:
                return found
        if self._parent is None:
            return 0
        for run_id in reversed(self._parent.run_ids):
            found = self._core.view(run_id, self._parent).get(object_id, number)
            if found is not None:
                return found
        return 0

    def _discard(self, object_id: int, offset: int, end: int) -> None:
        """Make a hole of [offset, end): pages become holes, the edges zeros."""
        first, last = -(-offset // PAGE_BYTES), end // PAGE_BYTES
        if first <= last:
            self._drop_waiting(object_id, first, last)
            self._add_holes(object_id, first, last)
        if end == SIZE_PAGE:
            return
        head = min(end, first * PAGE_BYTES)
        tail = max(head, last * PAGE_BYTES)
        for start, stop in ((offset, head), (tail, end)):
            if start < stop:
                self._write_part(object_id, start, memoryview(_ZERO_PAGE)[: stop - start])

    def _drop_waiting(self, object_id: int, first: int, last: int) -> None:
        if last - first < len(self._partial):
            for number in range(first, last):
                self._partial.pop((object_id, number), None)
        else:
            for key in [key for key in self._partial if key[0] == object_id]:
                if first <= key[1] < last:
                    del self._partial[key]
        if any(owner == object_id for owner, _, __ in self._pending):
            self._flush()

    def _add_holes(self, object_id: int, first: int, last: int) -> None:
        parts = [view.slice(object_id, first, last)[0] for view in self._all_views()]
        if self._parent is not None:
            parts.append(self._core.pages_of(self._parent, object_id, first, last)[0])
        if not parts:
            return
        pages = np.unique(np.concatenate(parts))
        self._add_ids(object_id, pages, np.zeros(len(pages), np.uint64))

    def _all_views(self) -> list[View]:
        """The parts as views, merged until each is at least twice as long as the next.

        Holes come by the ten thousand, and each of them asks all views: so there are few.
        """
        parts, self._parts = self._parts, []
        if parts:
            newest = entries_of(parts)
            while self._views and len(self._views[-1].entries.ids) < 2 * len(newest.ids):
                newest = merge_runs([self._views.pop().entries, newest], base=False)
            self._views.append(View(newest))
        return self._views

    # The commit itself: one run with what changed, one record that makes it a generation.

    def _delta(self) -> Entries:
        parts = [*self._parts, *self._size_parts()]
        runs = [view.entries for view in self._views]
        if parts:
            runs.append(entries_of(parts))
        if not runs:
            return EMPTY
        delta = merge_runs(runs, base=self._parent is None)
        # Only shared pages can be what the parent has at the same place.
        return self._changed(delta) if self._held and self._parent is not None else delta

    def _changed(self, delta: Entries) -> Entries:
        """The delta without the pages that the parent holds already."""
        assert self._parent is not None
        view = View(delta)
        changed = np.ones(len(delta.ids), np.bool_)
        for object_id, start in zip(view.objects.tolist(), view.starts, strict=False):
            numbers, ids = view.data(object_id)
            old = self._core.ids_of(self._parent, object_id, numbers)
            changed[start : start + len(numbers)] = old != ids
        return Entries(*(column[changed] for column in delta))

    def _size_parts(self) -> list[Part]:
        return [
            Part(object_id, _SIZE_PAGES, np.array([0 if size is None else size + 1], U64))
            for object_id, size in self._sizes.items()
        ]

    def _commit(self, batch: ingest.Batch, stamp: "Stamp") -> Generation:
        core = self._core
        delta = View(self._delta())
        logical = self._logical_bytes(delta)
        run_ids, merged = self._runs(delta)
        leaves = encode_run(merged.entries)
        records = [*batch.drafts, *leaves]
        stored = self._stored_bytes + sum(draft.record_bytes for draft in records)
        made: list[Generation] = []
        with core.append_lock:
            # A collection begins under this lock. It takes runs that were numbered before it, and
            # that no generation has, for garbage: so none is numbered outside.
            run_id = core.take_run(leaves) if leaves else 0
            record = CommitRecord(
                self._oid,
                stamp.epoch or core.last_epoch(self._oid) + 1,
                stamp.parent,
                stamp.time_ns,
                stamp.name,
                stamp.note,
                logical,
                stored,
                np.array([*run_ids, run_id] if run_id else run_ids, U64).tobytes(),
            )

            def registered(offsets: list[int], lsn: int) -> None:
                blocks = len(batch.drafts)
                ingest.register(core, batch, offsets[:blocks])
                if run_id:
                    places = offsets[blocks:-1]
                    sizes = [leaf.record_bytes for leaf in leaves]
                    entries = len(merged.entries.ids)
                    core.catalog.add_run(run_id, Run(entries, merged.holes, places, sizes))
                    core.runs.put(run_id, merged)
                made.append(core.catalog.commit(record, lsn))
                made[0].solid = self._still_solid(delta)
                core.counts.commits += 1
                core.counts.bytes_stored += stored

            durable = core.log.durable_lsn
            draft = Draft(RecordType.COMMIT, _encode(record), ident=self._oid, context=durable)
            core.append([*records, draft], registered)
        return made[0]

    def _runs(self, delta: View) -> tuple[list[int], View]:
        """(the parent's runs that the generation keeps, the entries of its own one)."""
        core, parent = self._core, self._parent
        kept = list(parent.run_ids) if parent else []
        if not len(delta.entries.ids):
            return kept, delta
        merged = delta
        with core.lock:
            lengths = [core.catalog.runs[run].entries for run in kept]
        while (count := merge_count([*lengths, len(merged.entries.ids)])) > 1:
            assert parent is not None
            older = [core.view(run, parent).entries for run in kept[1 - count :]]
            kept, lengths = kept[: 1 - count], lengths[: 1 - count]
            merged = View(merge_runs([*older, merged.entries], base=not kept))
        return kept, merged

    def _logical_bytes(self, delta: View) -> int:
        """Bytes of pages with data: the parent's, and what the delta adds or takes."""
        before = 0 if self._parent is None else self._parent.record.logical_bytes
        pages = 0
        for object_id in delta.objects.tolist():
            numbers, ids = delta.data(object_id)
            if len(numbers):
                held = int(np.count_nonzero(ids)) if delta.holes else len(ids)
                pages += held - self._present(object_id, numbers)
        return before + pages * PAGE_BYTES

    def _still_solid(self, delta: View) -> dict[int, tuple[int, int]]:
        """What is known of the parent and true of its child: objects without new holes."""
        solid = {} if self._parent is None else self._parent.solid
        if not solid or not delta.holes:
            return solid
        holes = set(delta.entries.objects[delta.entries.ids == 0].tolist())
        return {object_id: pages for object_id, pages in solid.items() if object_id not in holes}

    def _present(self, object_id: int, numbers: Array) -> int:
        """How many of these pages hold data in the parent."""
        core, parent = self._core, self._parent
        if parent is None:
            return 0
        first, end = parent.solid.get(object_id, (0, 0))
        if first <= int(numbers[0]) and int(numbers[-1]) < end:
            return len(numbers)
        with core.lock:
            runs = core.catalog.runs
            holes = any(runs[run_id].holes for run_id in parent.run_ids)
        if holes:
            return int(np.count_nonzero(core.ids_of(parent, object_id, numbers)))
        # The oldest run holds most pages: where there are no holes one run that speaks is enough.
        oldest = core.view(parent.run_ids[0], parent).solid(object_id) if parent.run_ids else None
        if oldest is not None:
            parent.solid = {**parent.solid, object_id: oldest}
        left = numbers
        for run_id in parent.run_ids:
            left = left[~core.view(run_id, parent).knows(object_id, left)]
            if not len(left):
                break
        return len(numbers) - len(left)
