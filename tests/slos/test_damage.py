"""Damaged stores: every byte flipped, random flips, truncation; never wrong bytes, never a crash."""

import os
import random
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from slos.errors import CorruptObjectError, SlosError, StoreFormatError
from slos.format import (
    SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSETS,
    Superblock,
    decode_superblock,
    encode_superblock,
)
from slos.fsck import check_device, fsck
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice
from tests.slos.fakes.workload import SEGMENT_BYTES, Model, commit_some, new_image

LONG = os.environ.get("SLS_LONG") == "1"


def small_store(tmp_path: Path) -> tuple[bytes, Model]:
    """A closed store of two partitions and a few generations."""
    chance = random.Random(11)
    device, model = MemoryDevice(new_image(tmp_path)), Model()
    with ObjectStore.open_device(device, background=False) as store:
        for oid in (1, 2):
            store.create_partition(oid, b"properties")
            for _ in range(3):
                commit_some(store, model, oid, chance, wait=False)
        store.delete_generation(1, 1)
        model.deleted.add((1, 1))
    return bytes(device.image), model


def smallest_store(tmp_path: Path) -> tuple[bytes, Model]:
    """A closed store with one of everything."""
    device, model = MemoryDevice(new_image(tmp_path)), Model()
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1, b"properties")
        for epoch in (1, 2):
            model.contents[1, epoch] = {5: random.Random(epoch).randbytes(300) * 9 * epoch}
            with store.begin(1) as transaction:
                transaction.put(5, model.contents[1, epoch][5])
                transaction.commit(wait=False)
    return bytes(device.image), model


def read_all(image: bytearray, model: Model) -> str:
    """`right`, `refused` or `reported`; wrong bytes or another exception fail."""
    try:
        store = ObjectStore.open_device(MemoryDevice(image), read_only=True)
    except SlosError as error:
        assert str(error)
        return "refused"
    outcome = "right"
    with store:
        found = [(oid, g.epoch) for oid in store.partitions() for g in store.generations(oid)]
        assert found == [key for key in sorted(model.contents) if key not in model.deleted]
        for oid in store.partitions():
            assert store.properties(oid) == b"properties"
            for epoch in [info.epoch for info in store.generations(oid)]:
                try:
                    model.check_generation(store, oid, epoch)
                except CorruptObjectError as error:
                    assert (error.oid, error.generation) == (oid, epoch)
                    assert error.offset >= 0
                    assert f"generation {epoch}" in str(error)
                    assert "offset" in str(error)
                    outcome = "reported"
    return outcome


@pytest.mark.crash
def test_x03_every_byte_flipped(tmp_path: Path) -> None:
    """Each byte of a small store in turn, one bit of it or all."""
    image, model = small_store(tmp_path) if LONG else smallest_store(tmp_path)
    assert read_all(bytearray(image), model) == "right"
    chance = random.Random(12)
    outcomes = {"right": 0, "refused": 0, "reported": 0}
    for at in range(len(image)):
        if not any(image[at & -64 : (at & -64) + 64]) and at % 64:
            continue  # One byte of every 64 that hold nothing.
        changed = bytearray(image)
        changed[at] ^= 0xFF if LONG else 1 << chance.randrange(8)
        outcomes[read_all(changed, model)] += 1
    assert min(outcomes.values()) > 0, outcomes


@pytest.mark.crash
@pytest.mark.parametrize("repeats", [1, 4], ids=["plain", "compressed"])
def test_x03_flips_within_a_long_read(tmp_path: Path, repeats: int) -> None:
    """Records that are looked at together: heads, directories, pages; all wanted, or a few."""
    chance = random.Random(16)
    contents = b"".join(chance.randbytes(PAGE_BYTES // repeats) * repeats for _ in range(8 * 16))
    device = MemoryDevice(new_image(tmp_path, segment_bytes=1 << 20))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.write(1, 0, contents)
            transaction.commit()
        places = store.core.catalog.blocks.rows["unit"].astype(int) * 64
    image = bytes(device.image)
    flips = [int(places[3]) + at for at in range(64 + 16 * 8)]
    flips += [chance.randrange(int(places[0]), int(places[-1])) for _ in range(100)]
    few = list(range(0, 128, 3))
    buffer = bytearray(len(few) * PAGE_BYTES)
    outcomes = {"right": 0, "whole": 0, "few": 0}
    for at in flips:
        damaged = bytearray(image)
        damaged[at] ^= 1 << chance.randrange(8)
        with ObjectStore.open_device(MemoryDevice(damaged), read_only=True) as store:
            outcome = "right"
            try:
                store.read_pages(1, 1, 1, few, buffer)
                for index, number in enumerate(few):
                    start = index * PAGE_BYTES
                    expected = contents[number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
                    assert buffer[start : start + PAGE_BYTES] == expected
            except CorruptObjectError as error:
                assert error.generation == 1
                outcome = "few"
            try:
                assert store.read(1, 1, 1) == contents
            except CorruptObjectError as error:
                assert error.generation == 1
                outcome = "whole" if outcome == "right" else outcome
            else:
                assert outcome == "right"
        outcomes[outcome] += 1
    assert outcomes["right"] == 0, "every flip is met by a read of all"
    # Of a compressed record all is needed for any of its pages.
    assert outcomes["few"] > 30, outcomes
    assert (outcomes["whole"] > 30) is (repeats == 1), outcomes


@pytest.mark.crash
def test_x03_fsck_finds_and_mends(tmp_path: Path) -> None:
    """A flip that a read meets is found by fsck; after repair the rest reads right."""
    image, model = small_store(tmp_path)
    chance = random.Random(13)
    found = 0
    for at in sorted(chance.sample(range(len(image)), 3000 if LONG else 300)):
        damaged = bytearray(image)
        damaged[at] ^= 0xFF
        reads = read_all(damaged, model)
        device = MemoryDevice(damaged)
        report = check_device(device)
        assert bytes(device.image) == bytes(damaged), "a check writes nothing"
        assert report.is_clean <= (reads == "right")
        if report.is_clean:
            continue
        found += 1
        check_device(device, repair=True)
        again = check_device(device)
        if again.partitions == 2:  # Else what was damaged is not kept twice.
            assert all(problem.offset >= 0 for problem in again.problems), again.problems
            ObjectStore.open_device(device, background=False).close()
    assert found > 50


@pytest.mark.crash
@pytest.mark.parametrize("part", range(10 if LONG else 1))
def test_x03_random_flips_and_truncations(tmp_path: Path, part: int) -> None:
    """Many flips in a larger store: what can be read is right, memory stays bounded."""
    size = 64 << 20 if LONG else 16 << 20
    chance = random.Random(14 + part)
    path = tmp_path / "large.store"
    ObjectStore.create(path, segment_bytes=1 << 20)
    contents: dict[int, bytes] = {}
    with ObjectStore.open(path) as store:
        store.create_partition(1)
        for number in range(size >> 20):
            half = chance.randbytes(1 << 19)
            contents[number] = half + chance.randbytes(1 << 18) * 2
            with store.begin(1, parent=store.newest(1)) as transaction:
                transaction.put(number, contents[number])
                transaction.commit(wait=False)
    device = MemoryDevice(path.read_bytes())
    path.unlink()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    outcomes = {"right": 0, "refused": 0, "reported": 0}
    for number in range(1000 if LONG else 600):
        with damaged(device, chance, cut=number % 4 == 0):
            outcomes[read_sample(device, contents, chance)] += 1
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 300 << 10
    assert min(outcomes.values()) > 5, outcomes
    assert read_sample(device, contents, chance) == "right"


@contextmanager
def damaged(device: MemoryDevice, chance: random.Random, *, cut: bool) -> Iterator[None]:
    """One to three flipped bits, and a lost tail; whole again at the end."""
    image = device.image
    flips = [(chance.randrange(len(image)), 1 << chance.randrange(8)) for _ in range(3)]
    flips = flips[: chance.randrange(1, 4)]
    for at, bit in flips:
        image[at] ^= bit
    kept = chance.randrange(len(image)) if cut else len(image)
    tail = image[kept:]
    del image[kept:]
    yield
    image.extend(tail)
    for at, bit in flips:
        image[at] ^= bit


def read_sample(device: MemoryDevice, contents: dict[int, bytes], chance: random.Random) -> str:
    """Whatever opens: some objects of some generations are `right` or `reported`."""
    try:
        store = ObjectStore.open_device(device, read_only=True)
    except SlosError:
        return "refused"
    outcome = "right"
    with store:
        for _ in range(3):
            epoch = chance.randrange(1, len(contents) + 1)
            number = chance.randrange(epoch)
            try:
                assert store.read(1, epoch, number) == contents[number]
            except CorruptObjectError as error:
                assert error.generation == epoch
                assert error.offset >= 0
                outcome = "reported"
    return outcome


@pytest.mark.crash
def test_x03_garbage_in_valid_records(tmp_path: Path) -> None:
    """A record whose checksum is right and whose contents are nonsense is refused, not obeyed."""
    image, _ = small_store(tmp_path)
    chance = random.Random(15)
    block = decode_superblock(image[:SUPERBLOCK_BYTES])
    for field in ("log_offset", "log_epoch", "log_lsn", "end_offset", "roots", "segment_bytes"):
        for _ in range(20):
            damaged = bytearray(image)
            value = chance.choice([0, 1, 64, 8192 + 64, 1 << 40, (1 << 64) - 64, len(image)])
            forged = forge(block, field, value)
            for offset in SUPERBLOCK_OFFSETS:
                damaged[offset : offset + SUPERBLOCK_BYTES] = forged
            try:
                ObjectStore.open_device(MemoryDevice(damaged), read_only=True).close()
            except SlosError as error:
                assert str(error)


def forge(block: Superblock, field: str, value: int) -> bytes:
    new = value % (1 << 32) if field == "segment_bytes" else value
    pair = (value, value) if field == "roots" else new
    return encode_superblock(msgspec.structs.replace(block, **{field: pair}))


@pytest.mark.parametrize("attempt", range(5))
def test_012_what_is_no_store_is_refused_in_words(tmp_path: Path, attempt: int) -> None:
    """Zeros, garbage, a truncated store, a newer version: each refused, the file untouched."""
    path = tmp_path / "some.store"
    image, _ = small_store(tmp_path)
    newer = bytearray(image)
    for offset in SUPERBLOCK_OFFSETS:
        newer[offset + 8] = 2
    cases = {
        "zeros": (bytes(1 << 20), "no store"),
        "garbage": (random.Random(attempt).randbytes(1 << 20), "no store"),
        "empty": (b"", "truncated"),
        "truncated": (image[: 300 + 100 * attempt], "."),
        "cut": (image[:9000], "."),
        "newer": (bytes(newer), "version 2"),
    }
    for name, (data, words) in cases.items():
        path.write_bytes(data)
        with pytest.raises(SlosError, match=words) as caught:
            ObjectStore.open(path)
        assert isinstance(caught.value, StoreFormatError | CorruptObjectError), name
        assert path.read_bytes() == data
    with pytest.raises(SlosError, match="version 2"):
        fsck(path)


def test_012_newer_features_are_refused_or_read_only(tmp_path: Path) -> None:
    image, model = small_store(tmp_path)
    block = decode_superblock(image[:SUPERBLOCK_BYTES])
    for field, usable in (("incompatible", False), ("read_only_compatible", True)):
        changed = bytearray(image)
        data = encode_superblock(msgspec.structs.replace(block, **{field: 1 << 7}))
        for offset in SUPERBLOCK_OFFSETS:
            changed[offset : offset + SUPERBLOCK_BYTES] = data
        with pytest.raises(StoreFormatError, match="upgrade"):
            ObjectStore.open_device(MemoryDevice(changed), background=False)
        assert (read_all(changed, model) == "right") is usable
    assert len(image) > SEGMENT_BYTES // 64
