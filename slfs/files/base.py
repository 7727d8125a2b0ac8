"""What the store holds of a tree: one generation of the partition's file stream.

    object 0               the header
    object 1               inode records, RECORD_BYTES each, at their number's place
    object 2               the first POOLED pages of every file, at their number's place
    object FILE_OBJECTS+n  the pages behind them

Small files, directories and links lie together in one object, so that a flush of many of them is
one call. `epoch` moves on with each flush. A tree that was never flushed has epoch 0: all zeros.
"""

import threading
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

import numpy as np

from slfs.files.blocks import BLOCK_BYTES, Blocks, Written
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
WRITTEN_AT_ONCE: Final = (8 << 20) // PAGE_BYTES
_rooms = threading.local()


class MissingBlockError(Exception):
    """What is to be read has to be had from the store first."""

    def __init__(self, object_id: int, number: int) -> None:
        super().__init__(f"block {number} of object {object_id} is not here")
        self.object_id = object_id
        self.number = number


class Base:
    """Reads of one stream at one epoch; what was read is kept for a while.

    Guarded by its tree's lock, but for `fetch`.
    """

    def __init__(self, store: Store, oid: int, epoch: int) -> None:
        self.store = store
        self.stream = oid | SIDE_STREAM
        self.epoch = epoch
        self._blocks = Blocks()

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

    def pages(
        self, ino: int, first: int, count: int, *, only_here: bool = False
    ) -> bytes | bytearray:
        """Pages of a file; what is not there is zeros. `only_here`: MissingBlockError, not a wait."""
        pooled: bytes | bytearray = b""
        if first < POOLED:
            take = min(count, POOLED - first)
            place = (ino * POOLED + first) * PAGE_BYTES
            pooled = self._kept(POOL_OBJECT, place, take * PAGE_BYTES, only_here)
            if take == count:
                return pooled
            first, count = POOLED, count - take
        object_id, start = FILE_OBJECTS + ino, first * PAGE_BYTES
        rest = self._kept(object_id, start, count * PAGE_BYTES, only_here)
        return pooled + rest if pooled else rest

    def _kept(self, object_id: int, offset: int, length: int, only_here: bool) -> bytes | bytearray:
        number, start = divmod(offset, BLOCK_BYTES)
        if start + length <= BLOCK_BYTES:
            piece = self._block(object_id, number, only_here)[start : start + length]
            return piece if len(piece) == length else piece.ljust(length, b"\0")
        made = bytearray()
        while length:
            take = min(length, BLOCK_BYTES - start)
            piece = self._block(object_id, number, only_here)[start : start + take]
            made += piece if len(piece) == take else piece.ljust(take, b"\0")
            number, start, length = number + 1, 0, length - take
        return made

    def _block(self, object_id: int, number: int, only_here: bool) -> bytearray:
        if not self.epoch:
            return bytearray()
        found = self._blocks.find(object_id, number)
        if found is None:
            if only_here:
                raise MissingBlockError(object_id, number)
            epoch, (found,) = self.fetch(object_id, number, 1)
            self.keep(epoch, object_id, number, [found])
        return found

    def has_block(self, object_id: int, number: int) -> bool:
        """Whether a block is at hand."""
        return self._blocks.find(object_id, number) is not None

    def release(self, object_id: int, numbers: range) -> None:
        """These blocks were read in order and will hardly be asked for again soon."""
        self._blocks.release(object_id, numbers)

    def fetch(self, object_id: int, number: int, count: int) -> tuple[int, list[bytearray]]:
        """Blocks from the store, with the epoch that they are of. Needs no lock."""
        buffer = bytearray(count * BLOCK_BYTES)
        epoch = self.epoch
        try:
            filled = self.store.read_into(
                self.stream, epoch, object_id, number * BLOCK_BYTES, buffer
            )
        except ObjectNotFoundError as error:
            if error.generation and not self._is_there():
                raise
            filled = 0
        del buffer[filled:]
        if count == 1:
            return epoch, [buffer]
        starts = range(0, count * BLOCK_BYTES, BLOCK_BYTES)
        return epoch, [buffer[start : start + BLOCK_BYTES] for start in starts]

    def keep(self, epoch: int, object_id: int, number: int, blocks: list[bytearray]) -> None:
        """Keep what was fetched, unless a flush came between."""
        if epoch == self.epoch:
            for index, block in enumerate(blocks):
                if not self.has_block(object_id, number + index):
                    self._blocks.put(object_id, number + index, block)

    def advance(self, epoch: int, batch: "Batch") -> None:
        """The batch is in the store, as that epoch."""
        self.epoch = epoch
        for object_id, first in batch.cuts:
            self._blocks.cut(object_id, first)
        for object_id, written in batch.written:
            self._blocks.patch(object_id, written)

    def inode_pages(self, first: int, count: int) -> bytes:
        """Pages of inode records, one behind the other."""
        return self._read(INODE_OBJECT, first * PAGE_BYTES, count * PAGE_BYTES)

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
    AT_ONCE: Final = 16

    def __init__(self, base: Base) -> None:
        self._base = base
        self._pages: dict[int, bytearray] = {}
        self.dirty: set[int] = set()

    def page(self, number: int) -> bytearray:
        """A page, read when it is not here."""
        found = self._pages.get(number)
        if found is None:
            self._read_around(number)
            found = self._pages[number]
        return found

    def _read_around(self, number: int) -> None:
        """Read a page with its neighbours: who lists a directory asks for them next."""
        first = number - number % self.AT_ONCE
        data = self._base.inode_pages(first, self.AT_ONCE)
        for index in range(self.AT_ONCE):
            page = data[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
            if first + index not in self._pages:
                self._pages[first + index] = bytearray(page)

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
        # What `write` did: (object, from which page on nothing is left), (object, pages).
        self.cuts: list[tuple[int, int]] = []
        self.written: list[tuple[int, Written]] = []

    def write(self, transaction: Transaction) -> None:
        """Put everything into a transaction."""
        pool: Pages = {}
        for ino, count in self.removed:
            pool.update(dict.fromkeys(_pool_pages(ino, count), bytes(PAGE_BYTES)))
            if count > POOLED:
                self._remove(transaction, FILE_OBJECTS + ino)
        for ino, pages, cut in self.contents:
            self._write_content(transaction, ino, pages, cut, pool)
        self._write_pages(transaction, POOL_OBJECT, pool)
        _write_pages(transaction, INODE_OBJECT, self.inode_pages)
        transaction.put(HEADER_OBJECT, self.header.ljust(PAGE_BYTES, b"\0"))

    def _remove(self, transaction: Transaction, object_id: int) -> None:
        self.cuts.append((object_id, 0))
        try:
            transaction.remove(object_id)
        except ObjectNotFoundError:
            return  # never written

    def _write_content(
        self, transaction: Transaction, ino: int, pages: Pages, cut: int, pool: Pages
    ) -> None:
        object_id = FILE_OBJECTS + ino
        if cut != UNCUT:
            if cut <= POOLED:
                self._remove(transaction, object_id)
            else:
                self.cuts.append((object_id, cut))
                transaction.truncate(object_id, cut * PAGE_BYTES)
        rest: Pages = {}
        for number, page in pages.items():
            if number < POOLED:
                pool[ino * POOLED + number] = page
            else:
                rest[number] = page
        self._write_pages(transaction, object_id, rest)

    def _write_pages(self, transaction: Transaction, object_id: int, pages: Pages) -> None:
        if pages:
            _write_pages(transaction, object_id, pages)
            self.written.append((object_id, Written(pages)))


def _pool_pages(ino: int, count: int) -> Iterable[int]:
    return range(ino * POOLED, ino * POOLED + min(count, POOLED))


def _write_pages(transaction: Transaction, object_id: int, pages: Pages | dict[int, bytes]) -> None:
    numbers = sorted(pages)
    for start in range(0, len(numbers), WRITTEN_AT_ONCE):
        some = numbers[start : start + WRITTEN_AT_ONCE]
        data = _gathered([pages[number] for number in some])
        transaction.write_pages(object_id, np.array(some, np.uint64), data)


def _gathered(pages: Sequence[bytes | bytearray]) -> memoryview:
    """Pages one behind the other, until the next call by this thread.

    The room is kept: with each new one the kernel would fill it with zeros first, which costs more than the copy.
    """
    room: bytearray | None = getattr(_rooms, "room", None)
    if room is None or len(room) < len(pages) * PAGE_BYTES:
        room = _rooms.room = bytearray(len(pages) * PAGE_BYTES)
    view = memoryview(room)
    for place, page in zip(range(0, len(room), PAGE_BYTES), pages, strict=False):
        view[place : place + PAGE_BYTES] = page
    return view[: len(pages) * PAGE_BYTES]
