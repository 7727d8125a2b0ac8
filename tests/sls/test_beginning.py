"""Memory that is kept before the capture it belongs to, out of this very process."""

import mmap
import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from slos.memstore import MemoryStore
from sls import syscalls
from sls.beginning import Beginning
from sls.channel import Captured, CapturedBytes, KeepRunning
from sls.errors import TaskDiedError
from sls.ranges import as_array
from sls.syscalls import PAGE_BYTES

OBJECT = 16
PAGES = 3000


class Source(NamedTuple):
    """A piece of memory of this process, and a store."""

    memory: mmap.mmap
    store: MemoryStore
    beginning: Beginning

    def wanted(self, serial: int, first: int, last: int, *, pid: int = 0) -> KeepRunning:
        start = syscalls.address_of(self.memory)
        ranges = as_array([(start + first * PAGE_BYTES, start + last * PAGE_BYTES)]).tobytes()
        what = CapturedBytes(OBJECT, 0, ranges, b"")
        return KeepRunning(serial=serial, base=0, pid=pid or os.getpid(), what=what)

    def commit(self, serial: int, *, is_continued: bool) -> bytes:
        """What the generation of the capture holds of the memory."""
        objects = (CapturedBytes(OBJECT, 0, b"", b""),)
        captured = Captured(
            serial=serial, base=0, image=b"", objects=objects, pids=(), losses=(), stop_ns=0,
            stages_ns={}, pages=0, started_ns=0, is_continued=is_continued,
        )  # fmt: skip
        with self.beginning.take(captured, None) as transaction:
            transaction.truncate(OBJECT, 1 << 47)
            epoch = transaction.commit().epoch
        start = syscalls.address_of(self.memory)
        return self.store.read(1, epoch, OBJECT, start, len(self.memory))


@pytest.fixture
def source() -> Iterator[Source]:
    store = MemoryStore()
    store.create_partition(1)
    with mmap.mmap(-1, PAGES * PAGE_BYTES) as memory:
        memory[:] = b"".join(number.to_bytes(4, "little") * 1024 for number in range(1, PAGES + 1))
        yield Source(memory, store, Beginning(store, 1))


def test_later_rounds_write_over_earlier_ones(source: Source) -> None:
    source.beginning.keep(source.wanted(1, 0, PAGES), None)
    source.memory[7 * PAGE_BYTES : 9 * PAGE_BYTES] = b"w" * 2 * PAGE_BYTES
    source.beginning.keep(source.wanted(1, 7, 9), None)
    assert source.commit(1, is_continued=True) == source.memory[:]


def test_what_is_not_continued_is_dropped(source: Source) -> None:
    source.beginning.keep(source.wanted(1, 0, 5), None)
    assert source.commit(1, is_continued=False) == bytes(len(source.memory))
    source.beginning.keep(source.wanted(2, 0, 5), None)
    source.beginning.keep(source.wanted(3, 5, 6), None)  # capture 2 never came
    kept = source.commit(3, is_continued=True)
    assert kept[: 5 * PAGE_BYTES] == bytes(5 * PAGE_BYTES)
    assert kept[5 * PAGE_BYTES : 6 * PAGE_BYTES] == source.memory[5 * PAGE_BYTES : 6 * PAGE_BYTES]


def test_an_object_that_the_stop_has_not_found_is_removed(source: Source) -> None:
    source.beginning.keep(source.wanted(1, 0, 5), None)
    captured = Captured(
        serial=1, base=0, image=b"", objects=(), pids=(), losses=(), stop_ns=0,
        stages_ns={}, pages=0, started_ns=0, is_continued=True,
    )  # fmt: skip
    with source.beginning.take(captured, None) as transaction:
        epoch = transaction.commit().epoch
    assert not source.store.objects(1, epoch)


def test_the_end_of_the_task_is_told(source: Source) -> None:
    with pytest.raises(TaskDiedError):
        source.beginning.keep(source.wanted(1, 0, 5, pid=(1 << 22) + 1), None)
    source.beginning.drop()
    assert not any(source.commit(1, is_continued=False))
