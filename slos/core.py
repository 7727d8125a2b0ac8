"""The parts of an open store, wired together: what transactions, collection and reads share.

Two locks, taken in this order: `append_lock` (the log's head, so writers among themselves) and
`lock` (the state in memory, held for moments only, never while the device is written).
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock, RLock
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from slos.blocks import Places
from slos.catalog import Catalog, Event, Generation, SectionKind
from slos.checkpoint import Sections, decode_hashes
from slos.dedup import HashIndex
from slos.device import Device
from slos.errors import CorruptObjectError, ReadOnlyStoreError, SlosError
from slos.extents import View, merge_slices
from slos.format import SIZE_PAGE, Array, Draft, RecordType, Superblock
from slos.log import Log
from slos.pages import PageReader, RunReader
from slos.store import PAGE_BYTES

# One processor is left to hashing, writing and whoever the store works for.
COMPRESS_THREADS = max(1, min(8, (os.cpu_count() or 2) - 1))
_encode = msgspec.msgpack.Encoder().encode


class Holder(Protocol):
    """Whoever refers to pages that no generation refers to yet."""

    def held_pages(self) -> list[Array]:
        """Ids of old pages that must stay."""

    def first_block(self) -> int | None:
        """The first block that is its own."""


class Counts:
    """What was done since the store was opened."""

    def __init__(self) -> None:
        self.commits = 0
        self.pages_written = 0
        self.pages_shared = 0
        self.pages_zero = 0
        self.bytes_stored = 0
        self.collections = 0
        self.bytes_moved = 0
        self.last_error = ""


class Core:
    """State, log and readers of one open store."""

    def __init__(self, device: Device, block: Superblock, *, read_only: bool):
        self.device = device
        self.block = block
        self.read_only = read_only
        self.lock = RLock()
        self.append_lock = RLock()
        self.log = Log(device, block.segment_bytes, block.mounts, block.seed)
        self.catalog = Catalog()
        self.sections = Sections(self.log)
        self.hashes = HashIndex()
        self.pool = ThreadPoolExecutor(COMPRESS_THREADS, thread_name_prefix="slos")
        self.reader = PageReader(self.log, self.locate, self.pool)
        self.runs = RunReader(self.log)
        self.holders: set[Holder] = set()
        # Taken while a transaction is open: who waits for it waits for an idle moment.
        self.busy = Lock()
        self.counts = Counts()
        # Long transactions append from here, so that the next part is compressed meanwhile.
        self.writer = ThreadPoolExecutor(1, thread_name_prefix="slos-writer")
        # Set while collection decides: which old pages may still be shared.
        self.may_share: Callable[[Array], NDArray[np.bool_]] | None = None
        self.on_reference: Callable[[Array], None] | None = None
        self._hashes_lock = Lock()
        self._hashes_loaded = False

    def locate(self, page_ids: Array) -> Places:
        """Where pages lie now."""
        with self.lock:
            return self.catalog.blocks.locate(page_ids)

    def take_run(self, leaves: Sequence[Draft]) -> int:
        """A number for a new run, and its leaves with that number."""
        with self.lock:
            run_id = self.catalog.take_run()
        for leaf in leaves:
            leaf.ident = run_id
        return run_id

    def enter(self, holder: Holder) -> None:
        """A transaction begins. The caller holds the state lock."""
        if not self.holders:
            self.busy.acquire()
        self.holders.add(holder)

    def leave(self, holder: Holder) -> None:
        """A transaction ends. The caller holds the state lock."""
        self.holders.discard(holder)
        if not self.holders:
            self.busy.release()

    def wait_idle(self, timeout: float) -> None:
        """Wait until no transaction is open, or `timeout` seconds."""
        if self.busy.acquire(timeout=timeout):
            self.busy.release()

    def last_epoch(self, oid: int) -> int:
        """The newest epoch that a partition ever gave out."""
        with self.lock:
            return self.catalog.partition(oid).last_epoch

    def check_writable(self) -> None:
        """Raise ReadOnlyStoreError where writes are not taken."""
        if self.read_only:
            raise ReadOnlyStoreError("the store was opened read-only; open it for writing")
        if self.log.failure is not None:
            raise ReadOnlyStoreError(
                f"the store went read-only: {self.log.failure}; unmount it and run slsctl fsck"
            )

    def append(
        self,
        drafts: Sequence[Draft],
        registered: Callable[[list[int], int], None],
        *,
        emergency: bool = False,
    ) -> int:
        """Append records and tell the state where they lie, (offsets, last lsn); the last lsn."""
        with self.append_lock:
            self.check_writable()
            offsets = self.log.append(drafts, emergency=emergency)
            lsn = self.log.written_lsn
            with self.lock:
                registered(offsets, lsn)
            return lsn

    def append_event(self, event: Event) -> int:
        """Log an event and carry it out."""
        body = _encode(event)
        with self.append_lock:
            draft = Draft(RecordType.EVENT, body, context=self.log.durable_lsn)
            return self.append([draft], lambda _, __: self.catalog.apply(event), emergency=True)

    def wait_durable(self, lsn: int, timeout: float | None = None) -> bool:
        """Wait until an lsn lasts. After a failed sync forgets the generations that may not."""
        try:
            return self.log.wait_durable(lsn, timeout)
        except SlosError as error:
            self.forget_undurable(error)
            raise

    def forget_undurable(self, error: SlosError) -> None:
        """After a failed sync: what was not durable before is no generation."""
        with self.lock:
            self.counts.last_error = str(error)
            for partition in self.catalog.partitions.values():
                lost = [
                    generation
                    for generation in partition.generations.values()
                    if generation.lsn > self.log.durable_lsn
                ]
                for generation in lost:
                    del partition.generations[generation.record.epoch]

    def view(self, run_id: int, generation: Generation) -> View:
        """A run of a generation."""
        with self.lock:
            run = self.catalog.runs.get(run_id)
        view = self.runs.get(run_id, run) if run is not None else None
        if view is None:
            record = generation.record
            offset = run.leaves[0] if run is not None and run.leaves else -1
            raise CorruptObjectError(
                f"generation {record.epoch} of partition {record.oid}: its index (run {run_id} at "
                f"file offset {offset}) is damaged; look into dmesg and run slsctl fsck",
                oid=record.oid,
                generation=record.epoch,
                offset=offset,
            )
        return view

    def views(self, generation: Generation) -> list[View]:
        """All runs of a generation, oldest first."""
        return [self.view(run_id, generation) for run_id in generation.run_ids]

    def pages_of(
        self, generation: Generation, object_id: int, first: int = 0, last: int = SIZE_PAGE
    ) -> tuple[Array, Array]:
        """(page numbers, page ids) of an object's data in [first, last)."""
        views = self.views(generation)
        return merge_slices([view.slice(object_id, first, last) for view in views])

    def ids_of(self, generation: Generation, object_id: int, numbers: Array) -> Array:
        """The page ids at these page numbers of an object; 0 for holes."""
        ids = np.zeros(len(numbers), np.uint64)
        left = np.arange(len(numbers))
        for run_id in reversed(generation.run_ids):
            known, found = self.view(run_id, generation).find(object_id, numbers[left])
            if len(found):
                ids[left[known]] = found
                left = left[~known]
                if not len(left):
                    break
        return ids

    def size_of(self, generation: Generation, object_id: int) -> int | None:
        """An object's size, None where the generation has no such object."""
        for run_id in reversed(generation.run_ids):
            size = self.view(run_id, generation).size(object_id)
            if size is not None:
                return size - 1 if size else None
        return None

    def load_hashes(self) -> None:
        """Read the hashes kept by the checkpoint, once; a damaged part is left out."""
        with self._hashes_lock:
            if not self._hashes_loaded:
                self._load_hashes()

    def _load_hashes(self) -> None:
        refs = [ref for ref in self.sections.refs.values() if ref.kind is SectionKind.HASHES]
        for ref in refs:
            try:
                ids, hashes = decode_hashes(self.sections.read((ref.kind, ref.key), ref.chunks))
            except (SlosError, ValueError, msgspec.MsgspecError):
                continue  # Equal pages are stored once more; nothing is lost.
            with self.lock:
                self.hashes.load(ref.key, ids, hashes)
        self._hashes_loaded = True

    @property
    def hashes_loaded(self) -> bool:
        """Whether the index of hashes is whole."""
        return self._hashes_loaded

    def share(self, hashes: Array, rows: NDArray[np.uint64], held: list[Array]) -> Array | None:
        """Ids of pages that hold the same bytes as these rows, 0 where none does; None: none at all."""
        if not self._hashes_loaded:
            self.load_hashes()
        with self.lock:
            found = self.hashes.find(hashes)
            if found is None:
                return None
            if self.may_share is not None:
                found[~self.may_share(found)] = 0
            hits = np.flatnonzero(found)
            held.append(found[hits])
            if self.on_reference is not None:
                self.on_reference(found[hits])
        copies = np.empty((len(hits), PAGE_BYTES), np.uint8)
        bad = self.reader.read(found[hits], copies, np.arange(len(hits)))
        equal = (copies.view(np.uint64) == rows[hits]).all(axis=1) & ~np.isin(found[hits], bad)
        found[hits[~equal]] = 0
        return found

    def damaged(
        self, generation: Generation, object_id: int, page_id: int, number: int
    ) -> CorruptObjectError:
        """The error for a page of a generation that cannot be read."""
        record = generation.record
        place = int(self.locate(np.array([page_id], np.uint64)).offsets[0])
        return CorruptObjectError(
            f"generation {record.epoch} of partition {record.oid}: object {object_id:#x} is damaged "
            f"at offset {number * PAGE_BYTES} (file offset {place}); use an older generation, "
            "look into dmesg and run slsctl fsck",
            oid=record.oid,
            generation=record.epoch,
            offset=number * PAGE_BYTES,
        )

    def stop_threads(self) -> None:
        """End the threads that compress and write."""
        self.writer.shutdown()
        self.pool.shutdown()

    def close(self) -> None:
        """Let threads and the file go."""
        self.stop_threads()
        self.device.close()
