"""Writes of one transaction that lie in its memory when the next one comes."""

import random
from pathlib import Path

import pytest

from slos import transaction
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice, RecordingDevice
from tests.slos.fakes.workload import new_image, page

PAGES = 24


def laid_over(old: bytes, offset: int, data: bytes) -> bytes:
    return old[:offset].ljust(offset, b"\0") + data + old[offset + len(data) :]


@pytest.mark.parametrize("seed", range(30))
def test_whatever_follows_a_write_that_waits_sees_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Each write of whole pages waits for the next: parts of its pages, clones, holes, all at random."""
    monkeypatch.setattr(transaction, "_DIRECT_BYTES", PAGE_BYTES)
    chance = random.Random(seed)
    device = MemoryDevice(new_image(tmp_path))
    expected = {1: b"", 2: b""}
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        parent = None
        for _ in range(6):
            with store.begin(1, parent=parent) as delta:
                for number in expected:
                    for _ in range(chance.randrange(1, 6)):
                        expected[number] = change(delta, chance, number, expected[number])
                parent = delta.commit().epoch
            for number, content in expected.items():
                assert store.read(1, parent, number) == content
    with ObjectStore.open_device(MemoryDevice(device.image), background=False) as store:
        assert parent is not None
        for number, content in expected.items():
            assert store.read(1, parent, number) == content


def change(
    delta: transaction.ObjectTransaction, chance: random.Random, number: int, old: bytes
) -> bytes:
    """Do something to an object; what it holds then."""
    kind = chance.randrange(6)
    if kind < 3:
        data = b"".join(page(chance) for _ in range(chance.randrange(1, PAGES)))
        first = chance.randrange(PAGES) * PAGE_BYTES
        delta.write(number, first, data)
        return laid_over(old, first, data)
    if kind == 3:
        offset, data = chance.randrange(PAGES * PAGE_BYTES), chance.randbytes(100)
        delta.write(number, offset, data)
        return laid_over(old, offset, data)
    size = chance.randrange(PAGES * PAGE_BYTES)
    if kind == 4:
        delta.truncate(number, size)
        return old[:size].ljust(size, b"\0")
    delta.put(number, old[:size])
    return old[:size]


def test_a_commit_of_pages_that_compress_is_one_write(tmp_path: Path) -> None:
    chance = random.Random(4)
    device = RecordingDevice(new_image(tmp_path, segment_bytes=4 << 20))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        pages = b"".join(chance.randbytes(512) * (PAGE_BYTES // 512) for _ in range(160))
        before = len(device.operations)
        with store.begin(1) as delta:
            delta.write_pages(1, range(160), pages)
            epoch = delta.commit().epoch
        assert [operation.kind for operation in device.operations[before:]] == ["write", "sync"]
        assert store.read(1, epoch, 1) == pages
