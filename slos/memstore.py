"""A store in memory: backend `memory`. Uncompressed, gone when the process ends.

Knows no file and no device. One lock guards all; objects are persistent trees of two levels
(chunks of 512 pages), so that a generation copies only the chunks it changes.
"""

import time
from collections.abc import Container, Iterator, Sequence
from threading import RLock
from types import TracebackType
from typing import Self

import msgspec
import numpy as np

from slos import retention
from slos.errors import InvalidRequestError, ObjectExistsError, ObjectNotFoundError
from slos.request import (
    as_bytes,
    check_note,
    check_numbers,
    check_object,
    check_oid,
    check_range,
    merge_ranges,
    not_found,
)
from slos.store import (
    MAX_OID,
    PAGE_BYTES,
    Buffer,
    Fill,
    GenerationInfo,
    ObjectInfo,
    PageNumbers,
    StoreStatistics,
)

_CHUNK_PAGES = 512
_STREAM_PAGES = 1024
_ZERO_PAGE = bytes(PAGE_BYTES)
_Chunk = dict[int, bytes]


class _Object:
    """Pages of one object. `owned` names the chunks that no generation shares."""

    __slots__ = ("chunks", "owned", "size")

    def __init__(self, size: int = 0, chunks: dict[int, _Chunk] | None = None):
        self.size = size
        self.chunks = chunks if chunks is not None else {}
        self.owned: set[int] = set()

    def fork(self) -> "_Object":
        return _Object(self.size, dict(self.chunks))

    def page(self, number: int) -> bytes | None:
        chunk = self.chunks.get(number // _CHUNK_PAGES)
        return chunk.get(number) if chunk is not None else None

    def set_page(self, number: int, page: bytes) -> None:
        index = number // _CHUNK_PAGES
        if index not in self.owned:
            self.chunks[index] = dict(self.chunks.get(index, ()))
            self.owned.add(index)
        if page == _ZERO_PAGE:
            self.chunks[index].pop(number, None)
        else:
            self.chunks[index][number] = page

    def write(self, offset: int, data: memoryview) -> None:
        end = offset + len(data)
        position = offset
        while position < end:
            number, start = divmod(position, PAGE_BYTES)
            part = data[position - offset : position - offset + PAGE_BYTES - start]
            if len(part) == PAGE_BYTES:
                self.set_page(number, bytes(part))
            else:
                page = bytearray(self.page(number) or _ZERO_PAGE)
                page[start : start + len(part)] = part
                self.set_page(number, bytes(page))
            position += len(part)
        if data:
            self.size = max(self.size, end)

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, self.size)
        first, last = -(-offset // PAGE_BYTES), end // PAGE_BYTES
        for number in self.pages(first, last):
            self.set_page(number, _ZERO_PAGE)
        for start, stop in _edges(offset, end):
            if self.page(start // PAGE_BYTES) is not None:
                self.write(start, memoryview(bytes(stop - start)))

    def truncate(self, size: int) -> None:
        if size < self.size:
            self.discard(size, self.size - size)
        self.size = size

    def pages(self, first: int, last: int) -> list[int]:
        """Numbers of the pages with data in [first, last), ascending."""
        return [
            number
            for index in sorted(self.chunks)
            if first // _CHUNK_PAGES <= index <= last // _CHUNK_PAGES
            for number in sorted(self.chunks[index])
            if first <= number < last
        ]

    def page_count(self) -> int:
        return sum(map(len, self.chunks.values()))


def _edges(offset: int, end: int) -> list[tuple[int, int]]:
    """The parts of [offset, end) that are not whole pages."""
    head = min(end, -(-offset // PAGE_BYTES) * PAGE_BYTES)
    tail = max(head, end // PAGE_BYTES * PAGE_BYTES)
    return [(a, b) for a, b in ((offset, head), (tail, end)) if a < b]


class _Generation:
    __slots__ = ("committed_ns", "info", "objects")

    def __init__(self, info: GenerationInfo, objects: dict[int, _Object]):
        self.info = info
        self.objects = objects
        self.committed_ns = time.monotonic_ns()


class _Partition:
    def __init__(self, properties: bytes):
        self.properties = properties
        self.generations: dict[int, _Generation] = {}
        self.last_epoch = 0


class MemoryTransaction:
    """A generation in the making, in memory."""

    def __init__(self, store: "MemoryStore", oid: int, parent: _Generation | None):
        self._store = store
        self._oid = oid
        self._parent = parent.info.epoch if parent else None
        self._objects = dict(parent.objects) if parent else {}
        self._forked: set[int] = set()
        self._written = 0
        self._open = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.abort()

    def _object(self, object_id: int) -> _Object:
        if not self._open:
            raise InvalidRequestError("this transaction has ended; begin a new one")
        check_object(object_id)
        if object_id not in self._forked:
            found = self._objects.get(object_id)
            self._objects[object_id] = found.fork() if found else _Object()
            self._forked.add(object_id)
        return self._objects[object_id]

    def write(self, object_id: int, offset: int, data: Buffer) -> None:
        view = as_bytes(data)
        check_range(offset, len(view))
        self._written += len(view)
        self._object(object_id).write(offset, view)

    def write_pages(self, object_id: int, page_numbers: PageNumbers, data: Buffer) -> None:
        view = as_bytes(data)
        if len(view) != len(page_numbers) * PAGE_BYTES:
            raise InvalidRequestError(f"{len(page_numbers)} pages, but {len(view)} bytes")
        for index, number in enumerate(page_numbers):
            start = index * PAGE_BYTES
            self.write(object_id, int(number) * PAGE_BYTES, view[start : start + PAGE_BYTES])

    def stream_pages(self, object_id: int, page_numbers: PageNumbers, fill: Fill) -> None:
        buffer = memoryview(bytearray(_STREAM_PAGES * PAGE_BYTES))
        for first in range(0, len(page_numbers), _STREAM_PAGES):
            part = page_numbers[first : first + _STREAM_PAGES]
            view = buffer[: len(part) * PAGE_BYTES]
            fill(first, view)
            self.write_pages(object_id, part, view)

    def discard(self, object_id: int, offset: int, length: int) -> None:
        check_range(offset, length)
        self._existing(object_id).discard(offset, length)

    def truncate(self, object_id: int, size: int) -> None:
        check_range(0, size)
        self._object(object_id).truncate(size)

    def put(self, object_id: int, data: Buffer) -> None:
        self._object(object_id)
        self._objects[object_id] = _Object()
        self.write(object_id, 0, data)

    def remove(self, object_id: int) -> None:
        self._existing(object_id)
        del self._objects[object_id]
        self._forked.discard(object_id)

    def clone(self, object_id: int, source_oid: int, source_epoch: int, source_object: int) -> None:
        source = self._store._object(source_oid, source_epoch, source_object)
        self._object(object_id)
        self._objects[object_id] = source.fork()

    def commit(self, *, wait: bool = True, name: str = "", note: bytes = b"") -> GenerationInfo:
        if not self._open:
            raise InvalidRequestError("this transaction has ended; begin a new one")
        check_note(name, note)
        self._open = False
        return self._store._commit(
            self._oid, self._parent, self._objects, name, note, self._written
        )

    def abort(self) -> None:
        self._open = False
        self._objects = {}

    def _existing(self, object_id: int) -> _Object:
        if object_id not in self._objects:
            raise not_found(self._oid, self._parent or 0, object_id)
        return self._object(object_id)


class MemoryStore:
    """Generations kept in memory only."""

    def __init__(self) -> None:
        self._lock = RLock()
        self._partitions: dict[int, _Partition] = {}
        self._commits = 0
        self._written = 0

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
        with self._lock:
            self._partitions.clear()

    def create_partition(self, oid: int, properties: bytes = b"") -> None:
        check_oid(oid)
        with self._lock:
            if oid in self._partitions:
                raise ObjectExistsError(f"partition {oid} exists; delete it first", oid=oid)
            self._partitions[oid] = _Partition(bytes(properties))

    def delete_partition(self, oid: int) -> None:
        with self._lock:
            self._partition(oid)
            del self._partitions[oid]

    def partitions(self) -> tuple[int, ...]:
        with self._lock:
            return tuple(sorted(oid for oid in self._partitions if oid <= MAX_OID))

    def properties(self, oid: int) -> bytes:
        with self._lock:
            return self._partition(oid).properties

    def set_properties(self, oid: int, properties: bytes) -> None:
        with self._lock:
            self._partition(oid).properties = bytes(properties)

    def begin(self, oid: int, *, parent: int | None = None) -> MemoryTransaction:
        with self._lock:
            self._partition(oid)
            base = None if parent is None else self._generation(oid, parent)
            return MemoryTransaction(self, oid, base)

    def generations(self, oid: int) -> Sequence[GenerationInfo]:
        with self._lock:
            return [generation.info for generation in self._partition(oid).generations.values()]

    def generation(self, oid: int, epoch: int) -> GenerationInfo:
        with self._lock:
            return self._generation(oid, epoch).info

    def newest(self, oid: int) -> int | None:
        with self._lock:
            return max(self._partition(oid).generations, default=None)

    def delete_generation(self, oid: int, epoch: int) -> None:
        with self._lock:
            self._generation(oid, epoch)
            del self._partition(oid).generations[epoch]

    def retain(self, oid: int, newest: int, keep: Container[int] = ()) -> None:
        with self._lock:
            for epoch in retention.surplus(list(self._partition(oid).generations), newest, keep):
                self.delete_generation(oid, epoch)

    def thin(self, oid: int, rule: str, keep: Container[int] = ()) -> None:
        with self._lock:
            for epoch in retention.thinned(self.generations(oid), rule, keep, time.time_ns()):
                self.delete_generation(oid, epoch)

    def set_name(self, oid: int, epoch: int, name: str) -> None:
        check_note(name, b"")
        with self._lock:
            generation = self._generation(oid, epoch)
            generation.info = msgspec.structs.replace(generation.info, name=name)

    def objects(self, oid: int, epoch: int) -> Sequence[ObjectInfo]:
        with self._lock:
            found = self._generation(oid, epoch).objects
            return [
                ObjectInfo(
                    object_id=object_id,
                    size_bytes=found[object_id].size,
                    stored_bytes=found[object_id].page_count() * PAGE_BYTES,
                )
                for object_id in sorted(found)
            ]

    def read(
        self, oid: int, epoch: int, object_id: int, offset: int = 0, length: int | None = None
    ) -> bytes:
        size = self._object(oid, epoch, object_id).size
        wanted = max(0, size - offset) if length is None else min(length, max(0, size - offset))
        check_range(offset, wanted)
        buffer = bytearray(wanted)
        self.read_into(oid, epoch, object_id, offset, buffer)
        return bytes(buffer)

    def read_into(self, oid: int, epoch: int, object_id: int, offset: int, buffer: Buffer) -> int:
        found = self._object(oid, epoch, object_id)
        view = as_bytes(buffer)
        check_range(offset, len(view))
        filled = min(len(view), max(0, found.size - offset))
        position = 0
        while position < filled:
            number, start = divmod(offset + position, PAGE_BYTES)
            count = min(PAGE_BYTES - start, filled - position)
            page = found.page(number) or _ZERO_PAGE
            view[position : position + count] = page[start : start + count]
            position += count
        return filled

    def read_pages(
        self, oid: int, epoch: int, object_id: int, page_numbers: PageNumbers, buffer: Buffer
    ) -> None:
        """Fill a writable buffer with pages: `page_numbers[i]`, ascending, goes to `buffer[i*4096:]`."""
        found = self._object(oid, epoch, object_id)
        view = as_bytes(buffer)
        wanted = np.asarray(page_numbers, np.uint64)
        check_numbers(wanted, len(view) // PAGE_BYTES)
        for index, number in enumerate(wanted.tolist()):
            view[index * PAGE_BYTES : (index + 1) * PAGE_BYTES] = found.page(number) or _ZERO_PAGE

    def data_ranges(
        self, oid: int, epoch: int, object_id: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        found = self._object(oid, epoch, object_id)
        stop = found.size if end is None else min(end, found.size)
        numbers = found.pages(start // PAGE_BYTES, -(-stop // PAGE_BYTES))
        return merge_ranges(numbers, start, stop)

    def changed_ranges(
        self, oid: int, old: int, new: int, object_id: int
    ) -> Iterator[tuple[int, int]]:
        with self._lock:
            before = self._generation(oid, old).objects.get(object_id, _Object())
            after = self._generation(oid, new).objects.get(object_id, _Object())
        stop = max(before.size, after.size)
        last = -(-stop // PAGE_BYTES)
        either = sorted({*before.pages(0, last), *after.pages(0, last)})
        changed = [number for number in either if before.page(number) != after.page(number)]
        return merge_ranges(changed, 0, stop)

    def wait_durable(self, oid: int, epoch: int, timeout: float | None = None) -> bool:
        """True at once: what memory can keep, it keeps."""
        self.generation(oid, epoch)
        return True

    def durable(self, oid: int) -> int:
        return self.newest(oid) or 0

    def durable_since_ns(self, oid: int, epoch: int) -> int | None:
        try:
            with self._lock:
                return self._generation(oid, epoch).committed_ns
        except ObjectNotFoundError:
            return 0

    def sync(self) -> None:
        """Nothing to wait for."""

    def statistics(self) -> StoreStatistics:
        with self._lock:
            chunks = {
                id(chunk): len(chunk)
                for partition in self._partitions.values()
                for generation in partition.generations.values()
                for found in generation.objects.values()
                for chunk in found.chunks.values()
            }
            pages = sum(chunks.values())
            return StoreStatistics(
                file_bytes=0,
                allocated_bytes=pages * PAGE_BYTES,
                live_bytes=pages * PAGE_BYTES,
                free_bytes=0,
                partitions=len(self._partitions),
                generations=sum(len(p.generations) for p in self._partitions.values()),
                commits=self._commits,
                pages_written=self._written // PAGE_BYTES,
                pages_shared=0,
                pages_zero=0,
                bytes_logical=self._written,
                bytes_stored=self._written,
                collections=0,
                bytes_moved=0,
                durable_lag=0,
                read_only=False,
            )

    def _partition(self, oid: int) -> _Partition:
        partition = self._partitions.get(oid)
        if partition is None:
            raise ObjectNotFoundError(f"no partition {oid}; create it first", oid=oid)
        return partition

    def _generation(self, oid: int, epoch: int) -> _Generation:
        generations = self._partition(oid).generations
        if epoch not in generations:
            raise not_found(oid, epoch)
        return generations[epoch]

    def _object(self, oid: int, epoch: int, object_id: int) -> _Object:
        with self._lock:
            found = self._generation(oid, epoch).objects.get(object_id)
        if found is None:
            raise not_found(oid, epoch, object_id)
        return found

    def _commit(
        self,
        oid: int,
        parent: int | None,
        objects: dict[int, _Object],
        name: str,
        note: bytes,
        written: int,
    ) -> GenerationInfo:
        with self._lock:
            partition = self._partition(oid)
            partition.last_epoch += 1
            info = GenerationInfo(
                epoch=partition.last_epoch,
                parent=parent,
                time_ns=time.time_ns(),
                name=name,
                logical_bytes=sum(o.page_count() for o in objects.values()) * PAGE_BYTES,
                stored_bytes=written,
                durable=True,
                note=bytes(note),
            )
            for found in objects.values():
                found.owned = set()
            partition.generations[info.epoch] = _Generation(info, objects)
            self._commits += 1
            self._written += written
            return info
