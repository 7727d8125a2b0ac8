"""What every store offers: the Protocol that `ObjectStore` and `MemoryStore` satisfy.

An object is a sparse array of bytes named by a 64-bit number within a partition; a generation is
an immutable set of objects. Thread-safe: any method may be called from any thread, a transaction
from one thread at a time.
"""

from collections.abc import Callable, Container, Iterator, Sequence
from mmap import mmap
from types import TracebackType
from typing import Any, Protocol, Self, TypeAlias

import msgspec
from numpy.typing import NDArray

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap | NDArray[Any]
PageNumbers: TypeAlias = Sequence[int] | NDArray[Any]
Fill: TypeAlias = Callable[[int, memoryview], None]

PAGE_BYTES = 4096
MAX_OID = 65536
SIDE_STREAM = 1 << 20  # in a partition's number: its second stream of generations, not listed
MAX_NAME_BYTES = 255
MAX_NOTE_BYTES = 64 << 10
MAX_OBJECT_BYTES = 1 << 63


class GenerationInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One generation of a partition.

    `logical_bytes` counts the pages that hold data, `stored_bytes` what this generation added to
    the store. `durable` is the state at the moment of the call.
    """

    epoch: int
    parent: int | None
    time_ns: int
    name: str = ""
    logical_bytes: int = 0
    stored_bytes: int = 0
    durable: bool = False
    note: bytes = b""


class ObjectInfo(msgspec.Struct, frozen=True, kw_only=True):
    """One object of a generation; `stored_bytes` counts shared blocks in full."""

    object_id: int
    size_bytes: int
    stored_bytes: int


class StoreStatistics(msgspec.Struct, frozen=True, kw_only=True):
    """Totals of a store at one moment."""

    file_bytes: int
    allocated_bytes: int
    live_bytes: int
    free_bytes: int
    partitions: int
    generations: int
    commits: int
    pages_written: int
    pages_shared: int
    pages_zero: int
    bytes_logical: int
    bytes_stored: int
    collections: int
    bytes_moved: int
    durable_lag: int
    read_only: bool
    last_error: str = ""


class Transaction(Protocol):
    """A generation in the making. Leaving the `with` block without `commit` discards it."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def write(self, object_id: int, offset: int, data: Buffer) -> None:
        """Write bytes at any alignment; whole pages are the fast path."""

    def write_pages(self, object_id: int, page_numbers: PageNumbers, data: Buffer) -> None:
        """Write pages: `page_numbers[i]` takes `data[i*4096:(i+1)*4096]`."""

    def stream_pages(self, object_id: int, page_numbers: PageNumbers, fill: "Fill") -> None:
        """Write pages that come piece by piece, so that nobody holds all of them.

        `fill(first, view)` puts the pages `page_numbers[first:]` into the view, as many as it has
        room for. What it raises ends the call; some of the pages may be written then.
        """

    def discard(self, object_id: int, offset: int, length: int) -> None:
        """Make a hole; the size stays."""

    def truncate(self, object_id: int, size: int) -> None:
        """Set the size, creating the object if there is none; what is cut off becomes a hole."""

    def put(self, object_id: int, data: Buffer) -> None:
        """Replace the whole object by `data`."""

    def remove(self, object_id: int) -> None:
        """Remove the object; one that is not there is ObjectNotFoundError."""

    def clone(self, object_id: int, source_oid: int, source_epoch: int, source_object: int) -> None:
        """Replace the object by another one's contents, sharing its blocks."""

    def commit(self, *, wait: bool = True, name: str = "", note: bytes = b"") -> GenerationInfo:
        """Make the generation; with `wait` it is durable on return.

        Raises StoreFullError, StoreDeviceError or ReadOnlyStoreError where it could not; then the
        generation does not exist and the store holds what it held.
        """

    def abort(self) -> None:
        """Discard the transaction."""


class Store(Protocol):
    """The one door to kept bytes."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def close(self) -> None: ...

    def create_partition(self, oid: int, properties: bytes = b"") -> None: ...

    def delete_partition(self, oid: int) -> None: ...

    def partitions(self) -> tuple[int, ...]: ...

    def properties(self, oid: int) -> bytes: ...

    def set_properties(self, oid: int, properties: bytes) -> None: ...

    def begin(self, oid: int, *, parent: int | None = None) -> Transaction: ...

    def generations(self, oid: int) -> Sequence[GenerationInfo]: ...

    def generation(self, oid: int, epoch: int) -> GenerationInfo: ...

    def newest(self, oid: int) -> int | None: ...

    def delete_generation(self, oid: int, epoch: int) -> None: ...

    def retain(self, oid: int, newest: int, keep: Container[int] = ()) -> None:
        """Delete all but the `newest` newest generations and those in `keep`; 0 keeps all."""

    def thin(self, oid: int, rule: str, keep: Container[int] = ()) -> None:
        """Thin by age: `1s:60 1m:60` keeps one a second for 60 s, one a minute for 60 min."""

    def set_name(self, oid: int, epoch: int, name: str) -> None: ...

    def objects(self, oid: int, epoch: int) -> Sequence[ObjectInfo]: ...

    def read(
        self, oid: int, epoch: int, object_id: int, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Bytes of an object: holes are zeros, short at the object's end."""

    def read_into(self, oid: int, epoch: int, object_id: int, offset: int, buffer: Buffer) -> int:
        """Fill a writable buffer; the number of bytes filled, short at the object's end."""

    def read_pages(
        self, oid: int, epoch: int, object_id: int, page_numbers: PageNumbers, buffer: Buffer
    ) -> None:
        """Fill a writable buffer with pages: `page_numbers[i]`, ascending, goes to `buffer[i*4096:]`.

        Holes are zeros, also beyond the object's end.
        """

    def data_ranges(
        self, oid: int, epoch: int, object_id: int, start: int = 0, end: int | None = None
    ) -> Iterator[tuple[int, int]]:
        """Byte ranges (start, end) that hold data, ascending and merged."""

    def changed_ranges(
        self, oid: int, old: int, new: int, object_id: int
    ) -> Iterator[tuple[int, int]]:
        """Byte ranges (start, end) whose contents may differ between two generations."""

    def wait_durable(self, oid: int, epoch: int, timeout: float | None = None) -> bool: ...

    def durable(self, oid: int) -> int:
        """The newest durable epoch; 0 where there is none."""

    def durable_since_ns(self, oid: int, epoch: int) -> int | None:
        """When a generation became durable, by CLOCK_MONOTONIC; None: not yet. 0: it is gone, or that was long ago."""

    def sync(self) -> None:
        """Wait until everything committed is durable."""

    def statistics(self) -> StoreStatistics: ...
