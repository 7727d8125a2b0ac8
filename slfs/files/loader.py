"""Blocks of trees, had from the store by threads, so that the loop answers other requests meanwhile.

Who reads a file from its start on gets the next blocks before he asks. Thread-safe.
"""

import logging
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from slfs.files.base import FILE_OBJECTS, Base
from slfs.files.blocks import BLOCK_BYTES
from slos.errors import SlosError

logger = logging.getLogger("slfs")

WINDOW: Final = 16  # blocks read at once where reads follow one another
WINDOW_BYTES: Final = WINDOW * BLOCK_BYTES
THREADS: Final = 2

Place = tuple[int, int, int]  # base, object, block


class Loader:
    """What is being loaded, so that nothing is loaded twice at once."""

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="slfs-loader")
        self._lock = threading.Lock()
        self._under_way: dict[Place, Future[None]] = {}

    def stop(self) -> None:
        """Nothing is asked for any more."""
        self._pool.shutdown(cancel_futures=True)

    def load(
        self, base: Base, lock: threading.RLock, object_id: int, number: int
    ) -> "Future[None]":
        """Done when that block was loaded, or a flush came between. Raises SlosError there.

        Of blocks that are loaded together the first may be the only one, if others are damaged.
        """
        first, count = number, 1
        if number and base.has_block(object_id, number - 1):
            count = WINDOW - number % WINDOW
        with self._lock:
            found = self._under_way.get((id(base), object_id, number))
            if found is not None:
                return found
            places = [(id(base), object_id, first + index) for index in range(count)]
            places = [place for place in places if place not in self._under_way]
            future = self._pool.submit(self._work, base, lock, places)
            self._under_way.update(dict.fromkeys(places, future))
        return future

    def _work(self, base: Base, lock: threading.RLock, places: list[Place]) -> None:
        _, object_id, number = places[0]
        count = places[-1][2] - number + 1
        try:
            try:
                epoch, blocks = base.fetch(object_id, number, count)
            except SlosError:
                if count == 1:
                    raise
                # One of the blocks ahead may be damaged: that is for who asks for it.
                epoch, blocks = base.fetch(object_id, number, 1)
            with lock:
                base.keep(epoch, object_id, number, blocks)
        finally:
            with self._lock:
                for place in places:
                    del self._under_way[place]

    def read_on(
        self, base: Base, lock: threading.RLock, ino: int, offset: int, size_bytes: int
    ) -> None:
        """A read reached the start of a window: have the next one ready, and let the one before go."""
        object_id = FILE_OBJECTS + ino
        number = offset // BLOCK_BYTES + WINDOW
        base.release(object_id, range(number - 2 * WINDOW, number - WINDOW))
        if number * BLOCK_BYTES >= size_bytes or base.has_block(object_id, number):
            return
        if not base.has_block(object_id, number - 1):
            return  # read by other ways than in order, or not from the store
        future = self.load(base, lock, object_id, number)
        future.add_done_callback(_log_failure)


def _log_failure(future: "Future[None]") -> None:
    if not future.cancelled() and isinstance(future.exception(), SlosError):
        logger.info("reading ahead: %s", future.exception())  # the read itself will tell
