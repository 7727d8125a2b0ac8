"""Collection: space comes back, nothing that is reached is lost, commits go on beside it."""

import random
import threading
from collections.abc import Callable
from pathlib import Path

from slos.copy import copy
from slos.fsck import check_device, fsck
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice
from tests.slos.fakes.workload import SEGMENT_BYTES, new_image

PAGES = 512


def grow(store: ObjectStore, commits: int, chance: random.Random) -> dict[int, bytes]:
    """Generations that change 20 pages each."""
    data = bytearray(chance.randbytes(PAGES * PAGE_BYTES))
    with store.begin(1) as transaction:
        transaction.write(1, 0, data)
        parent = transaction.commit(wait=False).epoch
    contents = {parent: bytes(data)}
    for _ in range(commits):
        numbers = sorted(chance.sample(range(PAGES), 20))
        part = chance.randbytes(20 * PAGE_BYTES)
        for index, number in enumerate(numbers):
            start = index * PAGE_BYTES
            data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = part[start : start + PAGE_BYTES]
        with store.begin(1, parent=parent) as transaction:
            transaction.write_pages(1, numbers, part)
            parent = transaction.commit(wait=False).epoch
        contents[parent] = bytes(data)
    return contents


def test_file_comes_down_to_a_fresh_copy(tmp_path: Path) -> None:
    """After deleting 90 % of the generations, scattered ones and the oldest."""
    for keep in (range(180, 201), range(5, 201, 10)):
        path, fresh = tmp_path / "grown.store", tmp_path / "fresh.store"
        ObjectStore.create(path, segment_bytes=256 << 10)
        with ObjectStore.open(path, background=False) as store:
            store.create_partition(1)
            contents = grow(store, 200, random.Random(51))
            store.retain(1, 1, keep=set(keep))
            store.collect()
            for epoch in (info.epoch for info in store.generations(1)):
                assert store.read(1, epoch, 1) == contents[epoch]
        assert fsck(path).is_clean
        copy(path, fresh, segment_bytes=256 << 10)
        assert path.stat().st_blocks <= 1.25 * fresh.stat().st_blocks
        path.unlink()
        fresh.unlink()


def test_everything_deleted_leaves_an_empty_store(tmp_path: Path) -> None:
    device = MemoryDevice(new_image(tmp_path))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        grow(store, 10, random.Random(52))
        full = store.statistics()
        store.delete_partition(1)
        store.collect()
        left = store.statistics()
    assert left.live_bytes == 0
    assert full.live_bytes > 2 << 20
    assert left.free_bytes >= left.file_bytes - 4 * SEGMENT_BYTES
    assert check_device(device).is_clean


def test_commits_between_the_steps_lose_nothing(tmp_path: Path) -> None:
    """Shared and cloned pages that no generation reaches when the cycle starts."""
    chance = random.Random(53)
    device = MemoryDevice(new_image(tmp_path))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        contents = grow(store, 20, chance)
        for cycle in range(6):
            newest = store.newest(1)
            assert newest is not None
            gone = contents[min(contents)]
            pending = store.begin(1, parent=newest)
            pending.write(2, 0, gone[: 64 * PAGE_BYTES])
            for epoch in sorted(contents)[:-1][: 4 + cycle]:
                store.delete_generation(1, epoch)
                del contents[epoch]
            steps = 0
            while store.collect_step():
                steps += 1
                if steps == 1 + cycle:
                    pending.write(3, 0, gone[32 * PAGE_BYTES :])
                if steps % 2:
                    data = gone[steps * PAGE_BYTES : (steps + 40) * PAGE_BYTES]
                    with store.begin(1, parent=newest) as transaction:
                        transaction.put(1, data)
                        contents[transaction.commit(wait=False).epoch] = data
            info = pending.commit()
            assert store.read(1, info.epoch, 2) == gone[: 64 * PAGE_BYTES]
            store.delete_generation(1, info.epoch)
            for epoch, expected in contents.items():
                assert store.read(1, epoch, 1) == expected
    assert check_device(device).is_clean


def test_a_cycle_that_begins_within_a_commit_takes_nothing_of_it(tmp_path: Path) -> None:
    """Short cycles, one after the other, beside short commits: each finds some commit half made."""
    device = MemoryDevice(new_image(tmp_path))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        failures: list[BaseException] = []

        def write() -> None:
            try:
                for number in range(400):
                    with store.begin(1, parent=store.newest(1)) as transaction:
                        transaction.put(number % 5, number.to_bytes(2, "big"))
                        epoch = transaction.commit(wait=False).epoch
                    assert store.read(1, epoch, number % 5) == number.to_bytes(2, "big")
                    store.retain(1, 3)
            except BaseException as error:  # noqa: BLE001 - reported by the test's thread
                failures.append(error)

        writer = threading.Thread(target=write)
        writer.start()
        while writer.is_alive():
            store.collect()
        writer.join()
        assert not failures
    assert check_device(device).is_clean


def test_threads_read_and_write_while_it_runs(tmp_path: Path) -> None:
    path = tmp_path / "busy.store"
    ObjectStore.create(path, segment_bytes=256 << 10)
    failures: list[BaseException] = []
    with ObjectStore.open(path) as store:
        for oid in (1, 2):
            store.create_partition(oid)
        contents = grow(store, 60, random.Random(54))
        kept = sorted(contents)[::6]
        stop = threading.Event()

        def guard(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - reported by the test's thread
                failures.append(error)

        def read() -> None:
            chance = random.Random(55)
            while not stop.is_set():
                epoch = chance.choice(kept)
                assert store.read(1, epoch, 1) == contents[epoch]

        def write() -> None:
            chance = random.Random(56)
            for number in range(60):
                data = chance.randbytes(30 * PAGE_BYTES)
                with store.begin(2) as transaction:
                    transaction.put(1, data)
                    epoch = transaction.commit(wait=number % 2 == 0).epoch
                assert store.read(2, epoch, 1) == data
                store.retain(2, 3)

        threads = [threading.Thread(target=guard, args=(work,)) for work in (read, write)]
        for thread in threads:
            thread.start()
        store.retain(1, 1, keep=kept)
        for _ in range(4):
            store.collect()
        threads[1].join()
        stop.set()
        threads[0].join()
        assert not failures
        assert store.statistics().collections >= 4
    assert fsck(path).is_clean


def test_closed_after_every_step(tmp_path: Path) -> None:
    """A cycle that is cut short by closing: nothing is lost, and the next one gives all space back."""
    device = MemoryDevice(new_image(tmp_path))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        contents = grow(store, 12, random.Random(57))
        newest = max(contents)
        store.retain(1, 1)
    image, steps = bytes(device.image), 0
    left: set[int] = set()
    while True:
        steps += 5
        again = MemoryDevice(image)
        with ObjectStore.open_device(again, background=False) as store:
            is_done = not all(store.collect_step() for _ in range(steps))
            assert store.read(1, newest, 1) == contents[newest]
        again = MemoryDevice(again.image)
        assert check_device(again).is_clean
        again = MemoryDevice(again.image)
        with ObjectStore.open_device(again, background=False) as store:
            store.collect()
            assert store.read(1, newest, 1) == contents[newest]
            left.add(store.statistics().file_bytes - store.statistics().free_bytes)
        if is_done:
            break
    assert steps > 10
    assert max(left) - min(left) <= 3 * SEGMENT_BYTES
