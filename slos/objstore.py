"""The one door to a store's file: partitions, transactions, generations, reads.

Knows no process and no mount. Usable from several threads; what guards what stands in `core`. A
maintenance thread syncs what was committed without waiting, writes checkpoints and collects;
`background=False` leaves that to the callers' threads, for tests that must be repeatable.
"""

import os
import time
from collections.abc import Container, Iterator, Sequence
from types import TracebackType
from typing import Self

import numpy as np

from slos import catalog as log_events
from slos import lifecycle, retention
from slos.catalog import Generation
from slos.core import Core
from slos.device import Device
from slos.errors import InvalidRequestError, ObjectExistsError, ObjectNotFoundError
from slos.format import DEFAULT_SEGMENT_BYTES, SIZE_PAGE, Array
from slos.maintenance import Maintenance
from slos.request import (
    as_bytes,
    check_note,
    check_numbers,
    check_oid,
    check_range,
    merge_ranges,
    not_found,
)
from slos.store import (
    MAX_OID,
    PAGE_BYTES,
    Buffer,
    GenerationInfo,
    ObjectInfo,
    PageNumbers,
    StoreStatistics,
)
from slos.transaction import ObjectTransaction

_MAX_PROPERTIES_BYTES = 64 << 10
_DELETE_AT_ONCE = 4096
_READ_PAGES = 4096


class ObjectStore:
    """An open store. Make one with `create`, open it with `open`."""

    def __init__(self, core: Core, *, background: bool):
        self._core = core
        self._maintenance = Maintenance(core, background=background)
        self._closed = False

    @property
    def core(self) -> Core:
        """The parts of the store, for the tools of this package."""
        return self._core

    @classmethod
    def create(
        cls,
        path: str | os.PathLike[str],
        *,
        segment_bytes: int = DEFAULT_SEGMENT_BYTES,
        uuid: bytes | None = None,
        created_ns: int | None = None,
    ) -> None:
        """Make an empty store; never over an existing file (ObjectExistsError)."""
        lifecycle.make_store(path, segment_bytes=segment_bytes, uuid=uuid, created_ns=created_ns)

    @classmethod
    def open(
        cls,
        path: str | os.PathLike[str],
        *,
        read_only: bool = False,
        background: bool = True,
    ) -> Self:
        """Open a store under an exclusive lock; read-only openers share it.

        Raises StoreBusyError, StoreFormatError, or CorruptObjectError where what was durable
        is damaged.
        """
        device = lifecycle.open_device(path, read_only=read_only)
        return cls.open_device(device, read_only=read_only, background=background)

    @classmethod
    def open_device(
        cls, device: Device, *, read_only: bool = False, background: bool = True
    ) -> Self:
        """Open the store on a device, which it closes at its end, also when this fails."""
        try:
            core = lifecycle.load(device, read_only=read_only)
        except BaseException:
            device.close()
            raise
        return cls(core, background=background)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Make everything durable and leave a clean store."""
        if self._closed:
            return
        self._closed = True
        self._maintenance.stop()
        lifecycle.close(self._core)

    def create_partition(self, oid: int, properties: bytes = b"") -> None:
        """A new partition, durable; ObjectExistsError where there is one."""
        check_oid(oid)
        _check_properties(properties)
        with self._core.append_lock:
            if oid in self._core.catalog.partitions:
                raise ObjectExistsError(f"partition {oid} exists; delete it first", oid=oid)
            lsn = self._core.append_event(log_events.PartitionCreated(oid, bytes(properties)))
        self._core.wait_durable(lsn)

    def delete_partition(self, oid: int) -> None:
        """Delete a partition and its generations, durably."""
        with self._core.append_lock:
            self._core.catalog.partition(oid)
            lsn = self._core.append_event(log_events.PartitionDeleted(oid))
        self._core.wait_durable(lsn)
        self._maintenance.wake()

    def partitions(self) -> tuple[int, ...]:
        """Numbers of the partitions, ascending; side streams are left out."""
        with self._core.lock:
            return tuple(sorted(oid for oid in self._core.catalog.partitions if oid <= MAX_OID))

    def properties(self, oid: int) -> bytes:
        """What `set_properties` set."""
        with self._core.lock:
            return self._core.catalog.partition(oid).properties

    def set_properties(self, oid: int, properties: bytes) -> None:
        """Replace a partition's properties, durably."""
        _check_properties(properties)
        with self._core.append_lock:
            self._core.catalog.partition(oid)
            lsn = self._core.append_event(log_events.PropertiesSet(oid, bytes(properties)))
        self._core.wait_durable(lsn)

    def begin(self, oid: int, *, parent: int | None = None) -> ObjectTransaction:
        """A transaction that starts with the parent's objects, or with none."""
        core = self._core
        core.check_writable()
        with core.lock:
            core.catalog.partition(oid)
            base = None if parent is None else core.catalog.generation(oid, parent)
            return ObjectTransaction(core, oid, base, self._maintenance.committed)

    def generations(self, oid: int) -> Sequence[GenerationInfo]:
        """All generations of a partition, ascending."""
        with self._core.lock:
            durable = self._core.log.durable_lsn
            found = self._core.catalog.partition(oid).generations
            return [generation.info(durable) for generation in found.values()]

    def generation(self, oid: int, epoch: int) -> GenerationInfo:
        """One generation."""
        with self._core.lock:
            return self._core.catalog.generation(oid, epoch).info(self._core.log.durable_lsn)

    def newest(self, oid: int) -> int | None:
        """The newest epoch."""
        with self._core.lock:
            return next(reversed(self._core.catalog.partition(oid).generations), None)

    def delete_generation(self, oid: int, epoch: int) -> None:
        """Delete a generation; its space comes back by collection."""
        with self._core.append_lock:
            self._core.catalog.generation(oid, epoch)
            self._delete(oid, [epoch])

    def retain(self, oid: int, newest: int, keep: Container[int] = ()) -> None:
        """Delete all but the `newest` newest generations and those in `keep`; 0 keeps all."""
        with self._core.append_lock:
            epochs = self._core.catalog.partition(oid).generations
            self._delete(oid, retention.surplus(epochs, newest, keep))

    def thin(self, oid: int, rule: str, keep: Container[int] = ()) -> None:
        """Thin by age: `1s:60 1m:60` keeps one a second for 60 s, one a minute for 60 min."""
        with self._core.append_lock:
            infos = self.generations(oid)
            self._delete(oid, retention.thinned(infos, rule, keep, time.time_ns()))

    def _delete(self, oid: int, epochs: list[int]) -> None:
        for start in range(0, len(epochs), _DELETE_AT_ONCE):
            part = tuple(epochs[start : start + _DELETE_AT_ONCE])
            self._core.append_event(log_events.GenerationsDeleted(oid, part))
        if epochs:
            self._maintenance.wake()

    def set_name(self, oid: int, epoch: int, name: str) -> None:
        """Rename a generation."""
        check_note(name, b"")
        with self._core.append_lock:
            self._core.catalog.generation(oid, epoch)
            self._core.append_event(log_events.NameSet(oid, epoch, name))
        self._maintenance.wake()

    def objects(self, oid: int, epoch: int) -> Sequence[ObjectInfo]:
        """All objects of a generation, ascending."""
        with self._pinned(oid, epoch) as generation:
            return list(self._objects(generation))

    def _objects(self, generation: Generation) -> Iterator[ObjectInfo]:
        core = self._core
        sizes: dict[int, int] = {}
        for view in core.views(generation):
            column = view.entries
            chosen = column.pages == SIZE_PAGE
            sizes.update(
                zip(column.objects[chosen].tolist(), column.ids[chosen].tolist(), strict=True)
            )
        for object_id in sorted(sizes):
            if sizes[object_id]:
                _, ids = core.pages_of(generation, object_id)
                yield ObjectInfo(
                    object_id=object_id,
                    size_bytes=sizes[object_id] - 1,
                    stored_bytes=self._stored(ids),
                )

    def _stored(self, ids: Array) -> int:
        """Bytes of the log that these pages stand for."""
        with self._core.lock:
            blocks = self._core.catalog.blocks
            index, known = blocks.find(ids >> np.uint64(4))
            rows = blocks.rows[index[known]]
            return int((rows["size"] // np.maximum(rows["total"], 1)).sum())

    def read(
        self, oid: int, epoch: int, object_id: int, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Bytes of an object: holes are zeros, short at the object's end.

        CorruptObjectError names generation and offset where they are damaged.
        """
        with self._pinned(oid, epoch) as generation:
            size = self._size(generation, object_id)
            rest = max(0, size - offset)
            wanted = rest if length is None else min(length, rest)
            check_range(offset, wanted)
            buffer = bytearray(wanted)
            self._fill(generation, object_id, offset, memoryview(buffer))
            return bytes(buffer)

    def read_into(self, oid: int, epoch: int, object_id: int, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer; the number of bytes filled, short at the object's end."""
        view = as_bytes(buffer)
        check_range(offset, len(view))
        with self._pinned(oid, epoch) as generation:
            size = self._size(generation, object_id)
            filled = min(len(view), max(0, size - offset))
            self._fill(generation, object_id, offset, view[:filled])
            return filled

    def read_pages(
        self, oid: int, epoch: int, object_id: int, page_numbers: PageNumbers, buffer: Buffer
    ) -> None:
        """Fill a writable buffer with pages: `page_numbers[i]`, ascending, goes to `buffer[i*4096:]`."""
        wanted = np.asarray(page_numbers, np.uint64)
        out = np.frombuffer(as_bytes(buffer), np.uint8).reshape(-1, PAGE_BYTES)
        check_numbers(wanted, len(out))
        if not len(wanted):
            return
        with self._pinned(oid, epoch) as generation:
            self._size(generation, object_id)
            self._fill_pages(generation, object_id, wanted, out)

    def _size(self, generation: Generation, object_id: int) -> int:
        size = self._core.size_of(generation, object_id)
        if size is None:
            raise not_found(generation.record.oid, generation.record.epoch, object_id)
        return size

    def _fill(self, generation: Generation, object_id: int, offset: int, view: memoryview) -> None:
        if not view:
            return
        first, last = offset // PAGE_BYTES, -(-(offset + len(view)) // PAGE_BYTES)
        if offset % PAGE_BYTES or len(view) % PAGE_BYTES:
            whole = np.zeros(((last - first), PAGE_BYTES), np.uint8)
            self._fill_pages(generation, object_id, np.arange(first, last, dtype=np.uint64), whole)
            start = offset - first * PAGE_BYTES
            view[:] = whole.reshape(-1).data[start : start + len(view)]
            return
        out = np.frombuffer(view, np.uint8).reshape(-1, PAGE_BYTES)
        self._fill_pages(generation, object_id, np.arange(first, last, dtype=np.uint64), out)

    def _fill_pages(
        self, generation: Generation, object_id: int, wanted: np.ndarray, out: np.ndarray
    ) -> None:
        """Fill `out[i]` with page `wanted[i]`; the numbers ascend."""
        core = self._core
        pages, ids = core.pages_of(generation, object_id, int(wanted[0]), int(wanted[-1]) + 1)
        if len(pages) > 0 and len(wanted) <= int(wanted[-1] - wanted[0]):
            present = np.isin(pages, wanted, assume_unique=True)
            pages, ids = pages[present], ids[present]
        rows = np.searchsorted(wanted, pages)
        if len(rows) < len(out):
            holes = np.ones(len(out), np.bool_)
            holes[rows] = False
            out[holes] = 0
        bad = core.reader.read(ids, out, rows)
        if len(bad):
            number = int(pages[np.isin(ids, bad)][0])
            raise core.damaged(generation, object_id, int(bad[0]), number)

    def data_ranges(
        self, oid: int, epoch: int, object_id: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Byte ranges (start, end) that hold data, ascending and merged."""
        with self._pinned(oid, epoch) as generation:
            size = self._size(generation, object_id)
            stop = size if end is None else min(end, size)
            first, last = start // PAGE_BYTES, -(-stop // PAGE_BYTES)
            pages, _ = self._core.pages_of(generation, object_id, first, max(first, last))
        return merge_ranges(pages.tolist(), start, stop)

    def changed_ranges(
        self, oid: int, old: int, new: int, object_id: int
    ) -> Iterator[tuple[int, int]]:
        """Byte ranges (start, end) whose contents may differ between two generations."""
        core = self._core
        with self._pinned(oid, old) as before, self._pinned(oid, new) as after:
            stop = max(core.size_of(g, object_id) or 0 for g in (before, after))
            old_pages, old_ids = core.pages_of(before, object_id)
            new_pages, new_ids = core.pages_of(after, object_id)
        both = np.union1d(old_pages, new_pages)
        columns = np.zeros((2, len(both)), np.uint64)
        columns[0, np.searchsorted(both, old_pages)] = old_ids
        columns[1, np.searchsorted(both, new_pages)] = new_ids
        return merge_ranges(both[columns[0] != columns[1]].tolist(), 0, stop)

    def wait_durable(self, oid: int, epoch: int, timeout: float | None = None) -> bool:
        """Wait until a generation is durable; False when `timeout` seconds have passed."""
        with self._core.lock:
            lsn = self._core.catalog.generation(oid, epoch).lsn
        return self._core.wait_durable(lsn, timeout)

    def durable(self, oid: int) -> int:
        """The newest durable epoch; 0 where there is none."""
        with self._core.lock:
            durable = self._core.log.durable_lsn
            for generation in reversed(self._core.catalog.partition(oid).generations.values()):
                if generation.lsn <= durable:
                    return generation.record.epoch
            return 0

    def durable_since_ns(self, oid: int, epoch: int) -> int | None:
        try:
            with self._core.lock:
                lsn = self._core.catalog.generation(oid, epoch).lsn
        except ObjectNotFoundError:
            return 0
        return self._core.log.durable_since_ns(lsn)

    def sync(self) -> None:
        """Wait until everything committed is durable."""
        self._core.wait_durable(self._core.log.written_lsn)

    def checkpoint(self) -> None:
        """Write the catalog now, so that opening after a crash has no log to read."""
        lifecycle.checkpoint(self._core)

    def collect(self) -> None:
        """Collect until there is nothing worth collecting."""
        self._maintenance.collect()

    def collect_step(self) -> bool:
        """One bounded step of collection; False when there is nothing worth collecting."""
        return self._maintenance.collect_step()

    def statistics(self) -> StoreStatistics:
        """Totals of the store at this moment."""
        core = self._core
        with core.lock:
            live = int(core.catalog.blocks.shares().sum())
            live += sum(sum(run.sizes) for run in core.catalog.runs.values())
            partitions = core.catalog.partitions.values()
            counts, log = core.counts, core.log
            return StoreStatistics(
                file_bytes=core.device.size(),
                allocated_bytes=core.device.allocated(),
                live_bytes=live,
                free_bytes=len(log.free) * log.segment_bytes,
                partitions=len(partitions),
                generations=sum(len(partition.generations) for partition in partitions),
                commits=counts.commits,
                pages_written=counts.pages_written,
                pages_shared=counts.pages_shared,
                pages_zero=counts.pages_zero,
                bytes_logical=counts.pages_written * PAGE_BYTES,
                bytes_stored=counts.bytes_stored,
                collections=counts.collections,
                bytes_moved=counts.bytes_moved,
                durable_lag=max(0, log.written_lsn - log.durable_lsn),
                read_only=core.read_only or log.failure is not None,
                last_error=counts.last_error,
            )

    def _pinned(self, oid: int, epoch: int) -> "_Pin":
        with self._core.lock:
            return _Pin(self._core, self._core.catalog.generation(oid, epoch))


class _Pin:
    """A generation that stays readable within a `with` block, though it be deleted."""

    def __init__(self, core: Core, generation: Generation):
        self._core = core
        self._generation = generation
        core.catalog.pin(generation)

    def __enter__(self) -> Generation:
        return self._generation

    def __exit__(self, *_: object) -> None:
        with self._core.lock:
            self._core.catalog.unpin(self._generation)


def _check_properties(properties: bytes) -> None:
    if len(properties) > _MAX_PROPERTIES_BYTES:
        raise InvalidRequestError(
            f"properties have at most {_MAX_PROPERTIES_BYTES} bytes; write them as an object"
        )
