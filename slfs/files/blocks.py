"""What was read of the store or written to it of late: blocks of objects, in a bounded room.

One cache for all trees of the process. A block holds what its tree's newest epoch says; a flush
patches it. Thread-safe; whoever loads a block checks under the tree's lock that no flush came between.
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Final

from slos.store import PAGE_BYTES

BLOCK_PAGES: Final = 64
BLOCK_BYTES: Final = BLOCK_PAGES * PAGE_BYTES
CACHE_BYTES: Final = 128 << 20
_EMPTY_BYTES: Final = 256  # what a block takes beside its bytes

Key = tuple[int, int, int]  # tree, object, block
_serials = itertools.count()


class BlockCache:
    """Blocks of all trees, those that were used last."""

    def __init__(self, limit_bytes: int = CACHE_BYTES) -> None:
        self._limit_bytes = limit_bytes
        self._lock = threading.Lock()
        self._blocks: OrderedDict[Key, bytearray] = OrderedDict()
        self._of_objects: dict[tuple[int, int], set[int]] = {}
        self.held_bytes = 0

    def find(self, key: Key) -> bytearray | None:
        """A block, as long as it was stored; zeros follow."""
        with self._lock:
            found = self._blocks.get(key)
            if found is not None:
                self._blocks.move_to_end(key)
            return found

    def put(self, key: Key, block: bytearray) -> None:
        """Keep a block, and let the oldest go."""
        with self._lock:
            self._forget(key)
            self._blocks[key] = block
            self._of_objects.setdefault(key[:2], set()).add(key[2])
            self.held_bytes += len(block) + _EMPTY_BYTES
            while self.held_bytes > self._limit_bytes and len(self._blocks) > 1:
                self._forget(next(iter(self._blocks)))

    def release(self, serial: int, object_id: int, numbers: range) -> None:
        """These blocks go first: who reads in order has had them, and the kernel keeps what he read."""
        with self._lock:
            for number in numbers:
                key = (serial, object_id, number)
                if key in self._blocks:
                    self._blocks.move_to_end(key, last=False)

    def _forget(self, key: Key) -> None:
        found = self._blocks.pop(key, None)
        if found is None:
            return
        self.held_bytes -= len(found) + _EMPTY_BYTES
        numbers = self._of_objects[key[:2]]
        numbers.discard(key[2])
        if not numbers:
            del self._of_objects[key[:2]]

    def cut(self, serial: int, object_id: int, first_page: int) -> None:
        """Blocks that hold pages from `first_page` on say nothing any more."""
        with self._lock:
            for number in list(self._of_objects.get((serial, object_id), ())):
                if (number + 1) * BLOCK_PAGES > first_page:
                    self._forget((serial, object_id, number))

    def forget_tree(self, serial: int) -> None:
        """Nobody reads that tree any more."""
        with self._lock:
            for key in [key for key in self._blocks if key[0] == serial]:
                self._forget(key)

    def patch(self, key: Key, pages: Mapping[int, bytes | bytearray], numbers: list[int]) -> None:
        """Some pages of a block were written: they change it where it is here."""
        with self._lock:
            block = self._blocks.get(key)
            if block is None:
                return
            before = len(block)
            for number in numbers:
                start = number % BLOCK_PAGES * PAGE_BYTES
                if start > len(block):
                    block.extend(bytes(start - len(block)))
                block[start : start + PAGE_BYTES] = pages[number]
            self.held_bytes += len(block) - before


_cache = BlockCache()


class Blocks:
    """The part of one tree."""

    def __init__(self, cache: BlockCache = _cache) -> None:
        self._cache = cache
        self._serial = next(_serials)

    def __del__(self) -> None:
        self._cache.forget_tree(self._serial)

    def find(self, object_id: int, number: int) -> bytearray | None:
        return self._cache.find((self._serial, object_id, number))

    def put(self, object_id: int, number: int, block: bytearray) -> None:
        self._cache.put((self._serial, object_id, number), block)

    def release(self, object_id: int, numbers: range) -> None:
        self._cache.release(self._serial, object_id, numbers)

    def cut(self, object_id: int, first_page: int) -> None:
        self._cache.cut(self._serial, object_id, first_page)

    def patch(self, object_id: int, written: "Written") -> None:
        """Pages were written. Call it under the tree's lock, when the epoch moves on."""
        for number, block in written.whole:
            self.put(object_id, number, block)
        for number, inside in written.parts:
            self._cache.patch((self._serial, object_id, number), written.pages, inside)


class Written:
    """Pages that were written to an object, by block. Pages of `parts` are not copied."""

    def __init__(self, pages: Mapping[int, bytes | bytearray]) -> None:
        self.pages = pages
        self.whole: list[tuple[int, bytearray]] = []
        self.parts: list[tuple[int, list[int]]] = []
        numbers = sorted(pages)
        for block, inside in itertools.groupby(numbers, lambda number: number // BLOCK_PAGES):
            found = list(inside)
            if len(found) == BLOCK_PAGES:
                self.whole.append((block, bytearray().join([pages[number] for number in found])))
            else:
                self.parts.append((block, found))
