"""What the store holds of a tree: one generation of the partition's file stream.

    object 0               the header
    object 1               inode records, RECORD_BYTES each, at their number's place
    object 2               the first POOLED pages of every file, at their number's place
    object FILE_OBJECTS+n  the pages behind them

Small files, directories and links lie together in one object, so that a flush of many of them is
one call. `epoch` moves on with each flush. A tree that was never flushed has epoch 0: all zeros.
"""

from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from slfs.files.cache import UNCUT, Pages
from slfs.files.records import RECORD_BYTES, Inode, decode_inode
from slos.errors import ObjectNotFoundError
from slos.store import PAGE_BYTES, SIDE_STREAM, Store, Transaction

HEADER_OBJECT: Final = 0
INODE_OBJECT: Final = 1
POOL_OBJECT: Final = 2
FILE_OBJECTS: Final = 1 << 40
POOLED: Final = 4
PER_PAGE: Final = PAGE_BYTES // RECORD_BYTES


class Base:
    """Reads of one stream at one epoch. Thread-safe as the store is."""

    def __init__(self, store: Store, oid: int, epoch: int) -> None:
        self.store = store
        self.stream = oid | SIDE_STREAM
        self.epoch = epoch

    def _read(self, object_id: int, offset: int, length: int) -> bytes:
        if not self.epoch:
            return bytes(length)
        try:
            data = self.store.read(self.stream, self.epoch, object_id, offset, length)
        except ObjectNotFoundError as error:
            if error.generation and not self._is_there():
                raise
            return bytes(length)
        return data if len(data) == length else data.ljust(length, b"\0")

    def _is_there(self) -> bool:
        try:
            self.store.generation(self.stream, self.epoch)
        except ObjectNotFoundError:
            return False
        return True

    def header(self) -> bytes:
        """The header's page."""
        return self._read(HEADER_OBJECT, 0, PAGE_BYTES)

    def pages(self, ino: int, first: int, count: int) -> bytes:
        """Pages of a file; what is not there is zeros."""
        pooled = b""
        if first < POOLED:
            take = min(count, POOLED - first)
            place = (ino * POOLED + first) * PAGE_BYTES
            pooled = self._read(POOL_OBJECT, place, take * PAGE_BYTES)
            if take == count:
                return pooled
            first, count = POOLED, count - take
        rest = self._read(FILE_OBJECTS + ino, first * PAGE_BYTES, count * PAGE_BYTES)
        return pooled + rest if pooled else rest

    def inode_page(self, number: int) -> bytes:
        """One page of inode records."""
        return self._read(INODE_OBJECT, number * PAGE_BYTES, PAGE_BYTES)

    def data_pages(self, ino: int) -> Iterator[tuple[int, int]]:
        """(first, end) of the runs of pages that hold data."""
        if not self.epoch:
            return
        start = ino * POOLED * PAGE_BYTES
        for base, object_id, low, high in (
            (start, POOL_OBJECT, start, start + POOLED * PAGE_BYTES),
            (0, FILE_OBJECTS + ino, 0, None),
        ):
            try:
                ranges = self.store.data_ranges(self.stream, self.epoch, object_id, low, high)
                for first, end in ranges:
                    yield (first - base) // PAGE_BYTES, -(-(end - base) // PAGE_BYTES)
            except ObjectNotFoundError:
                continue


class InodePages:
    """Pages of inode records, the last used ones kept. `dirty` are those to be flushed."""

    LIMIT: Final = 2048

    def __init__(self, base: Base) -> None:
        self._base = base
        self._pages: dict[int, bytearray] = {}
        self.dirty: set[int] = set()

    def page(self, number: int) -> bytearray:
        """A page, read when it is not here."""
        found = self._pages.get(number)
        if found is None:
            found = self._pages[number] = bytearray(self._base.inode_page(number))
        return found

    def load(self, ino: int) -> Inode | None:
        """The inode of a number, if there is one."""
        number, slot = divmod(ino, PER_PAGE)
        start = slot * RECORD_BYTES
        return decode_inode(ino, memoryview(self.page(number))[start : start + RECORD_BYTES])

    def set(self, ino: int, record: bytes) -> None:
        """Replace a record."""
        number, slot = divmod(ino, PER_PAGE)
        start = slot * RECORD_BYTES
        self.page(number)[start : start + RECORD_BYTES] = record
        self.dirty.add(number)

    def take(self) -> dict[int, bytes]:
        """Copies of the pages to be flushed."""
        taken = {number: bytes(self._pages[number]) for number in self.dirty}
        self.dirty.clear()
        return taken

    def trim(self) -> None:
        """Forget clean pages, the oldest first, when there are many."""
        surplus = len(self._pages) - self.LIMIT
        if surplus > 0:
            clean = [number for number in self._pages if number not in self.dirty]
            for number in clean[: surplus + self.LIMIT // 2]:
                del self._pages[number]


class Batch:
    """One instant of a tree's changes, ready to be written; nothing changes it any more."""

    def __init__(self, header: bytes, inode_pages: dict[int, bytes]) -> None:
        self.header = header
        self.inode_pages = inode_pages
        self.inodes: list[Inode] = []  # whose content is being flushed
        self.contents: list[tuple[int, Pages, int]] = []
        self.removed: list[tuple[int, int]] = []  # (ino, pages that it may have)

    def write(self, transaction: Transaction) -> None:
        """Put everything into a transaction."""
        pool: Pages = {}
        for ino, count in self.removed:
            pool.update(dict.fromkeys(_pool_pages(ino, count), bytes(PAGE_BYTES)))
            if count > POOLED:
                _remove(transaction, FILE_OBJECTS + ino)
        for ino, pages, cut in self.contents:
            _write_content(transaction, ino, pages, cut, pool)
        _write_pages(transaction, POOL_OBJECT, pool)
        _write_pages(transaction, INODE_OBJECT, self.inode_pages)
        transaction.put(HEADER_OBJECT, self.header.ljust(PAGE_BYTES, b"\0"))


def _pool_pages(ino: int, count: int) -> Iterable[int]:
    return range(ino * POOLED, ino * POOLED + min(count, POOLED))


def _remove(transaction: Transaction, object_id: int) -> None:
    try:
        transaction.remove(object_id)
    except ObjectNotFoundError:
        return  # never written


def _write_content(transaction: Transaction, ino: int, pages: Pages, cut: int, pool: Pages) -> None:
    if cut != UNCUT:
        if cut <= POOLED:
            _remove(transaction, FILE_OBJECTS + ino)
        else:
            transaction.truncate(FILE_OBJECTS + ino, cut * PAGE_BYTES)
    rest: Pages = {}
    for number, page in pages.items():
        if number < POOLED:
            pool[ino * POOLED + number] = page
        else:
            rest[number] = page
    _write_pages(transaction, FILE_OBJECTS + ino, rest)


def _write_pages(transaction: Transaction, object_id: int, pages: Pages | dict[int, bytes]) -> None:
    if pages:
        numbers = sorted(pages)
        data = b"".join([pages[number] for number in numbers])
        transaction.write_pages(object_id, np.array(numbers, np.uint64), data)
