"""The beginning of a generation: large memory, kept while its owner runs, before the capture that it belongs to.

Copied by the daemon from the task straight into the store's transaction, piece by piece, so that copying, compressing
and writing happen at the same time and nobody holds all of it. One thread at a time.
"""

from typing import Any, Final

import numpy as np

from slos.store import PAGE_BYTES, Store, Transaction
from sls.channel import Captured, CapturedBytes, KeepRunning
from sls.pages import copy_running
from sls.ranges import RangeArray, page_numbers, pages_as_ranges

_WHOLE_SPACE: Final = 1 << 47  # size of an object that is an address space


class Beginning:
    """The transaction of the capture under way, if anything of it is kept already."""

    def __init__(self, store: Store, oid: int) -> None:
        self._store = store
        self._oid = oid
        self._serial = 0
        self._objects: set[int] = set()
        self._transaction: Transaction | None = None

    def keep(self, wanted: KeepRunning, parent: int | None) -> None:
        """Keep memory of a running task. Raises TaskDiedError, SlosError, OSError."""
        transaction = self._of(wanted.serial, parent)
        is_new = parent is None and wanted.what.object_id not in self._objects
        self._objects.add(wanted.what.object_id)
        numbers = write_holes(transaction, wanted.what, is_new=is_new)

        def fill(first: int, view: memoryview) -> None:
            part = numbers[first : first + len(view) // PAGE_BYTES]
            copy_running(wanted.pid, pages_as_ranges(part), view)

        transaction.stream_pages(wanted.what.object_id, numbers, fill)

    def take(self, captured: Captured, parent: int | None) -> Transaction:
        """The transaction of a capture: what was begun for it, else a new one. The caller ends it."""
        if not captured.is_continued:
            self.drop()
        transaction = self._of(captured.serial, parent)
        for object_id in self._objects - {one.object_id for one in captured.objects}:
            transaction.remove(object_id)  # of a task that has ended before the stop
        self._transaction = None
        return transaction

    def _of(self, serial: int, parent: int | None) -> Transaction:
        if self._transaction is None or self._serial != serial:
            self.drop()
            self._transaction = self._store.begin(self._oid, parent=parent)
            self._serial = serial
            self._objects = set()
        return self._transaction

    def drop(self) -> None:
        """The capture did not come to be."""
        if self._transaction is not None:
            self._transaction.abort()
            self._transaction = None


def write_object(transaction: Transaction, one: CapturedBytes, view: memoryview) -> None:
    """Put one captured object, whose pages are in `view`, into the transaction."""
    numbers = write_holes(transaction, one)
    if len(numbers):
        with view[one.offset : one.offset + len(numbers) * PAGE_BYTES] as data:
            transaction.write_pages(one.object_id, numbers, data)


def write_holes(
    transaction: Transaction, one: CapturedBytes, *, is_new: bool = False
) -> "np.ndarray[Any, Any]":
    """Make the object there is, with holes where pages are gone; the numbers of its pages to write.

    `is_new`: it has no pages yet, so none are gone, however many holes there are.
    """
    transaction.truncate(one.object_id, _WHOLE_SPACE)
    for start, end in [] if is_new else _pairs(one.gone).tolist():
        transaction.discard(one.object_id, start, end - start)
    return page_numbers(_pairs(one.ranges))


def _pairs(packed: bytes) -> RangeArray:
    return np.frombuffer(packed, dtype=np.uint64).reshape(-1, 2)
