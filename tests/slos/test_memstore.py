"""The store in memory does what the store in a file does."""

import random
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from slos.errors import InvalidRequestError, ObjectExistsError, ObjectNotFoundError
from slos.memstore import MemoryStore
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES, Store
from tests.slos.fakes.device import MemoryDevice
from tests.slos.fakes.workload import new_image


def test_both_stores_answer_alike(tmp_path: Path) -> None:
    """The same random calls on both: the same bytes, ranges, epochs and errors."""
    chance = random.Random(41)
    file_store = ObjectStore.open_device(MemoryDevice(new_image(tmp_path)), background=False)
    stores: list[Store] = [MemoryStore(), file_store]
    for store in stores:
        store.create_partition(1, b"p")
        with pytest.raises(ObjectExistsError):
            store.create_partition(1)
    for epoch in range(1, 121):
        seed = chance.randrange(1 << 30)
        outcomes = [transact(store, epoch - 1, random.Random(seed)) for store in stores]
        assert outcomes[0] == outcomes[1]
        compare(stores, epoch, chance)
    for store in stores:
        store.retain(1, 10, keep={3, 5})
        assert [info.epoch for info in store.generations(1)] == [3, 5, *range(111, 121)]
        store.set_name(1, 120, "last")
        assert store.generation(1, 120).name == "last"
        assert store.wait_durable(1, 120)
        assert (store.newest(1), store.durable(1)) == (120, 120)
        since_ns = store.durable_since_ns(1, 120)
        assert since_ns is not None
        assert 0 < since_ns <= time.monotonic_ns()
        assert store.durable_since_ns(1, 1) == 0  # it is gone
        store.set_properties(1, b"q")
        assert store.properties(1) == b"q"
        assert store.statistics().generations == 12
        store.sync()
        store.delete_partition(1)
        assert store.partitions() == ()
        with pytest.raises(ObjectNotFoundError):
            store.generations(1)
        store.close()


def transact(store: Store, newest: int, chance: random.Random) -> list[str]:
    """One transaction of random calls; what they raised."""
    raised: list[str] = []
    parent = chance.choice([newest, max(1, newest - 3)]) if newest else None
    with store.begin(1, parent=parent) as transaction:
        for _ in range(chance.randrange(1, 7)):
            object_id, offset = chance.randrange(3), chance.randrange(6 * PAGE_BYTES)
            data = chance.randbytes(chance.choice([0, 5, 700, PAGE_BYTES, 9000]))
            calls: list[Callable[[], None]] = [
                partial(transaction.write, object_id, offset, data),
                partial(transaction.discard, object_id, offset, len(data)),
                partial(transaction.truncate, object_id, offset),
                partial(transaction.put, object_id, data),
                partial(transaction.remove, object_id),
                partial(transaction.write_pages, object_id, [2, 5], bytes(range(256)) * 32),
                partial(transaction.stream_pages, object_id, [0, 3], partial(fill_from, data)),
                partial(transaction.clone, object_id, 1, newest, (object_id + 1) % 3),
            ]
            try:
                chance.choice(calls)()
            except (ObjectNotFoundError, InvalidRequestError) as error:
                raised.append(type(error).__name__)
        info = transaction.commit(name=f"n{newest}")
    return [*raised, str(info.epoch), str(info.parent), str(info.logical_bytes), info.name]


def fill_from(data: bytes, first: int, view: memoryview) -> None:
    pages = data.ljust(2 * PAGE_BYTES, b"y")[first * PAGE_BYTES :]
    view[:] = pages[: len(view)]


@pytest.mark.parametrize("kind", ["memory", "file"])
@pytest.mark.parametrize("count", [1, 1024, 1025, 9000])
def test_a_stream_is_what_was_filled_in(tmp_path: Path, kind: str, count: int) -> None:
    """Longer than all buffers together; some pages alike, some zero, one written before in parts."""
    numbers = np.arange(7, 7 + 3 * count, 3)
    data = np.random.default_rng(count).integers(0, 3, (count, 512)).astype(np.uint64)
    data[:: max(2, count // 50)] = 0
    data[count // 2 :: max(2, count // 40)] = 5
    store: Store = MemoryStore()
    if kind == "file":
        store = ObjectStore.open_device(MemoryDevice(new_image(tmp_path)), background=False)
    store.create_partition(1)
    rows = data.view(np.uint8).reshape(-1)

    def fill(first: int, view: memoryview) -> None:
        view[:] = rows[first * PAGE_BYTES : first * PAGE_BYTES + len(view)].data

    with store, store.begin(1) as transaction:
        transaction.write(9, 7 * PAGE_BYTES + 5, b"beneath")
        transaction.stream_pages(9, numbers, fill)
        epoch = transaction.commit().epoch
        buffer = bytearray(len(rows))
        store.read_pages(1, epoch, 9, numbers, buffer)
        assert buffer == rows.tobytes()
        assert store.objects(1, epoch)[0].size_bytes == (7 + 3 * (count - 1) + 1) * PAGE_BYTES


@pytest.mark.parametrize("kind", ["memory", "file"])
def test_a_stream_that_breaks_off_leaves_the_store_as_it_was(tmp_path: Path, kind: str) -> None:
    store: Store = MemoryStore()
    if kind == "file":
        store = ObjectStore.open_device(MemoryDevice(new_image(tmp_path)), background=False)
    store.create_partition(1)

    def fill(first: int, view: memoryview) -> None:
        if first > 2000:
            raise ConnectionError("the source has ended")
        view[:] = b"x" * len(view)

    with store, store.begin(1) as transaction:
        with pytest.raises(ConnectionError):
            transaction.stream_pages(9, range(5000), fill)
        transaction.abort()
        assert list(store.generations(1)) == []
        with store.begin(1) as other:
            other.stream_pages(9, [1], lambda _, view: view.__setitem__(slice(0, 1), b"z"))
            assert store.read(1, other.commit().epoch, 9, PAGE_BYTES, 1) == b"z"


def compare(stores: list[Store], epoch: int, chance: random.Random) -> None:
    one, other = stores
    found = [(info.object_id, info.size_bytes) for info in one.objects(1, epoch)]
    assert found == [(info.object_id, info.size_bytes) for info in other.objects(1, epoch)]
    old = chance.randrange(1, epoch + 1)
    for object_id, size in found:
        start = chance.randrange(size + 1)
        assert one.read(1, epoch, object_id) == other.read(1, epoch, object_id)
        assert one.read(1, epoch, object_id, start, 999) == other.read(
            1, epoch, object_id, start, 999
        )
        for store in stores:
            assert store.read(1, epoch, object_id, size + 5) == b""
        ranges = [list(store.data_ranges(1, epoch, object_id, start)) for store in stores]
        assert ranges[0] == ranges[1]
        changed = [list(store.changed_ranges(1, old, epoch, object_id)) for store in stores]
        assert changed[0] == changed[1]
        buffers = [bytearray(2 * PAGE_BYTES) for _ in stores]
        for store, buffer in zip(stores, buffers, strict=True):
            store.read_pages(1, epoch, object_id, [1, 4], buffer)
        assert buffers[0] == buffers[1]


def test_wrong_calls_are_refused() -> None:
    store = MemoryStore()
    with pytest.raises(InvalidRequestError):
        store.create_partition(0)
    store.create_partition(1)
    with store.begin(1) as transaction:
        with pytest.raises(InvalidRequestError):
            transaction.write_pages(1, [1], b"short")
        with pytest.raises(InvalidRequestError):
            transaction.write(1, -1, b"x")
        with pytest.raises(InvalidRequestError):
            transaction.write(1 << 64, 0, b"x")
        with pytest.raises(InvalidRequestError):
            transaction.commit(name="x" * 300)
    with pytest.raises(InvalidRequestError):
        transaction.write(1, 0, b"after the end")
