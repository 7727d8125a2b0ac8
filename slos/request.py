"""Checks on what callers pass in, and small things both stores answer with.

Pure functions, shared by `memstore` and `objstore`.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from slos.errors import InvalidRequestError, ObjectNotFoundError
from slos.store import (
    MAX_NAME_BYTES,
    MAX_NOTE_BYTES,
    MAX_OBJECT_BYTES,
    MAX_OID,
    PAGE_BYTES,
    SIDE_STREAM,
    Buffer,
)


def as_bytes(data: Buffer) -> memoryview:
    """The buffer as a flat view of bytes."""
    view = data.data if isinstance(data, np.ndarray) else memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


def check_oid(oid: int) -> None:
    """Partitions are numbered from 1; each may have a side stream beside it."""
    if not 1 <= oid & ~SIDE_STREAM <= MAX_OID:
        raise InvalidRequestError(f"partition {oid}: use a number from 1 to {MAX_OID}", oid=oid)


def check_object(object_id: int) -> None:
    """Object numbers have 64 bits."""
    if not 0 <= object_id < 1 << 64:
        raise InvalidRequestError(f"object {object_id}: use a number of 64 bits")


def check_range(offset: int, length: int) -> None:
    """Offsets within an object."""
    if offset < 0 or length < 0 or offset + length > MAX_OBJECT_BYTES:
        raise InvalidRequestError(
            f"offset {offset}, length {length}: outside of 0 to {MAX_OBJECT_BYTES}", offset=offset
        )


def check_numbers(numbers: NDArray[np.uint64], room: int) -> None:
    """Page numbers of a read: ascending, within an object, as many as the buffer takes."""
    if len(numbers) != room:
        raise InvalidRequestError(f"{len(numbers)} pages do not fit a buffer of {room}")
    if len(numbers) and (
        int(numbers[-1]) >= MAX_OBJECT_BYTES // PAGE_BYTES
        or bool((numbers[1:] <= numbers[:-1]).any())
    ):
        raise InvalidRequestError("page numbers must ascend and lie within an object")


def check_note(name: str, note: bytes) -> None:
    """Bounds that keep a commit record readable."""
    if len(name.encode()) > MAX_NAME_BYTES:
        raise InvalidRequestError(f"a name has at most {MAX_NAME_BYTES} bytes; shorten it")
    if len(note) > MAX_NOTE_BYTES:
        raise InvalidRequestError(
            f"a note has at most {MAX_NOTE_BYTES} bytes; write it as an object"
        )


def not_found(oid: int, epoch: int, object_id: int | None = None) -> ObjectNotFoundError:
    """The error for a generation, or an object of it, that is not there."""
    what = f"generation {epoch} of partition {oid}"
    if object_id is not None:
        what = f"object {object_id:#x} in {what}"
    return ObjectNotFoundError(f"no {what}; list what there is", oid=oid, generation=epoch)


def merge_ranges(pages: Sequence[int], start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of ascending page numbers, neighbours joined, cut to [start, stop)."""
    first = last = -1
    for page in pages:
        if page != last:
            if first >= 0:
                yield max(first * PAGE_BYTES, start), min(last * PAGE_BYTES, stop)
            first = page
        last = page + 1
    if first >= 0:
        yield max(first * PAGE_BYTES, start), min(last * PAGE_BYTES, stop)
