"""A device that cannot read: reported with generation and offset, and only what is lost is lost."""

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest

from slos.errors import CorruptObjectError, SlosError, StoreDeviceError
from slos.format import SUPERBLOCK_OFFSETS
from slos.fsck import check_device
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice, UnreadableDevice
from tests.slos.fakes.workload import Model, commit_some, new_image

LONG = os.environ.get("SLS_LONG") == "1"
SECTOR = 512
LENGTH = 3 << 20


def long_store(
    tmp_path: Path, *, packed: bool, segment_bytes: int = 4 << 20
) -> tuple[bytes, bytes]:
    """A closed store with an object of 3 MiB in one generation; its image, the object."""
    chance = random.Random(61)
    data = chance.randbytes(LENGTH)
    if packed:
        data = b"".join(chance.randbytes(512) * 8 for _ in range(LENGTH // PAGE_BYTES))
    device = MemoryDevice(new_image(tmp_path, segment_bytes=segment_bytes))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.put(7, data)
            transaction.commit()
    return bytes(device.image), data


def place_of(store: ObjectStore, page: int) -> int:
    """File offset of the record that holds a page of the object."""
    core = store.core
    _, ids = core.pages_of(core.catalog.generation(1, 1), 7, page, page + 1)
    return int(core.locate(ids).offsets[0])


@pytest.mark.parametrize("fault", ["unreadable", "flipped"])
@pytest.mark.parametrize("packed", [False, True])
def test_only_the_damaged_page_of_a_long_read_is_an_error(
    tmp_path: Path, fault: str, *, packed: bool
) -> None:
    """What lies in front of a damaged block, and behind it, is read right, by reads of any length."""
    image, data = long_store(tmp_path, packed=packed)
    with ObjectStore.open_device(MemoryDevice(image), read_only=True) as store:
        at = place_of(store, 300) + SECTOR
    changed = bytearray(image)
    changed[at] ^= fault == "flipped"
    lost = [range(at, at + SECTOR)] if fault == "unreadable" else []
    with ObjectStore.open_device(UnreadableDevice(changed, lost), read_only=True) as store:
        # The block holds pages 288 to 303; 1 MiB ends in front of it.
        for start, end in ((0, 256), (0, 288), (304, 768), (200, 288), (287, 288), (304, 305)):
            want = data[start * PAGE_BYTES : end * PAGE_BYTES]
            length = (end - start) * PAGE_BYTES
            assert store.read(1, 1, 7, start * PAGE_BYTES, length) == want
        numbers = np.setdiff1d(np.arange(768), np.arange(288, 304))
        out = np.empty(len(numbers) * PAGE_BYTES, np.uint8)
        store.read_pages(1, 1, 7, numbers, out)
        assert out.tobytes() == data[: 288 * PAGE_BYTES] + data[304 * PAGE_BYTES :]
        for start, end in ((0, 768), (256, 512), (288, 304)):
            with pytest.raises(CorruptObjectError) as caught:
                store.read(1, 1, 7, start * PAGE_BYTES, (end - start) * PAGE_BYTES)
            error = caught.value
            assert (error.errno, error.oid, error.generation) == (errno.EIO, 1, 1)
            assert 288 <= error.offset // PAGE_BYTES < 304
            assert (
                f"generation 1 of partition 1: object 0x7 is damaged at offset {error.offset}"
                in (str(error))
            )


def test_a_superblock_copy_that_cannot_be_read(tmp_path: Path) -> None:
    image, data = long_store(tmp_path, packed=True)
    both = [range(offset, offset + SECTOR) for offset in SUPERBLOCK_OFFSETS]
    for lost in both:
        device = UnreadableDevice(image, [lost])
        found = check_device(device).problems
        assert [problem.file_offset for problem in found] == [lost.start]
        with ObjectStore.open_device(device, background=False) as store:
            assert store.read(1, 1, 7) == data
        assert check_device(device).is_clean
    for use in (check_device, ObjectStore.open_device):
        with pytest.raises(StoreDeviceError, match="superblock") as caught:
            use(UnreadableDevice(image, both))
        assert caught.value.errno == errno.EIO


def grown_store(tmp_path: Path, *, closed: bool) -> tuple[bytes, Model]:
    """A small store with generations of two partitions, closed or as a crash leaves it."""
    chance = random.Random(62)
    device, model = MemoryDevice(new_image(tmp_path)), Model()
    store = ObjectStore.open_device(device, background=False)
    for oid in (1, 2):
        store.create_partition(oid)
        for _ in range(8):
            commit_some(store, model, oid, chance, wait=True)
    store.retain(1, 5)
    store.collect()
    for oid in (1, 2):
        for _ in range(3):
            commit_some(store, model, oid, chance, wait=True)
    if closed:
        store.close()
    else:
        store.core.close()
    return bytes(device.image), model


def read_right_or_report(store: ObjectStore, model: Model) -> int:
    """How many objects could not be read; what could is right."""
    reported = 0
    for oid in store.partitions():
        for info in store.generations(oid):
            expected = model.contents[oid, info.epoch]
            for object_id, data in expected.items():
                try:
                    assert store.read(oid, info.epoch, object_id) == data
                except CorruptObjectError as error:
                    assert (error.errno, error.oid) == (errno.EIO, oid)
                    assert (error.generation, error.offset >= 0) == (info.epoch, True)
                    reported += 1
    return reported


def newest(store: ObjectStore) -> dict[int, int | None]:
    return {oid: store.newest(oid) for oid in store.partitions()}


@pytest.mark.crash
@pytest.mark.parametrize("closed", [True, False], ids=["closed", "crashed"])
def test_every_unreadable_sector(tmp_path: Path, *, closed: bool) -> None:
    """EIO on each sector of a store in turn, for opening, reading, collecting, fsck and repair.

    Never wrong bytes, never another exception; never an older generation as if it were the newest.
    """
    image, model = grown_store(tmp_path, closed=closed)
    with ObjectStore.open_device(MemoryDevice(image), background=False) as store:
        last = newest(store)
        assert read_right_or_report(store, model) == 0
    outcomes = set()
    for at in range(0, len(image), SECTOR if LONG else 7 * SECTOR):
        lost = range(at, at + SECTOR)
        outcomes.add(open_and_collect(image, lost, model, last))
        outcomes.add(check_and_repair(image, lost, model))
    assert outcomes >= {"right", "reported", "refused", "clean", "found"} - (
        {"refused"} if closed else set()
    )


def open_and_collect(image: bytes, lost: range, model: Model, last: dict[int, int | None]) -> str:
    device = UnreadableDevice(image, [lost])
    try:
        store = ObjectStore.open_device(device, background=False)
    except SlosError as error:
        assert error.errno == errno.EIO
        assert error.offset >= 0
        return "refused"
    assert newest(store) == last
    before = read_right_or_report(store, model)
    try:
        for oid in store.partitions():
            store.retain(oid, 2)
        store.collect()
    except SlosError as error:
        assert error.errno == errno.EIO
    read_right_or_report(store, model)
    chance = random.Random(63)
    for oid in store.partitions():
        try:
            commit_some(store, model, oid, chance, wait=True)
        except CorruptObjectError as error:
            assert error.generation == store.newest(oid)
    read_right_or_report(store, model)
    kept = newest(store)
    store.close()
    with ObjectStore.open_device(UnreadableDevice(device.image), background=False) as store:
        assert newest(store) == kept
        read_right_or_report(store, model)
    return "reported" if before else "right"


def check_and_repair(image: bytes, lost: range, model: Model) -> str:
    """Without repair nothing is written; after it the store opens and says nothing wrong."""
    device = UnreadableDevice(image, [lost])
    clean = check_device(device).is_clean
    assert device.image == image
    try:
        report = check_device(device, repair=True)
    except SlosError as error:
        assert error.errno == errno.EIO
        return "found"
    if any(problem.text.startswith("beyond repair") for problem in report.problems):
        return "beyond repair"
    with ObjectStore.open_device(device, background=False) as store:
        read_right_or_report(store, model)
    return "clean" if clean else "found"
