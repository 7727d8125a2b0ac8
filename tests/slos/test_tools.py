"""The tools on a closed store: dump, copy, fsck, and the entry points the command line calls."""

import random
from pathlib import Path

import msgspec
import pytest

from slos import dump as dumping
from slos.copy import copy
from slos.errors import CorruptObjectError, ObjectExistsError, StoreBusyError, StoreFormatError
from slos.fsck import check_device, fsck
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES, SIDE_STREAM
from tests.slos.fakes.device import MemoryDevice
from tests.slos.fakes.workload import Model, commit_some, new_image

OIDS = (3, 4, 3 | SIDE_STREAM)


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Model]:
    """A store with holes in its history, names, notes and a branch."""
    path, model, chance = tmp_path / "made.store", Model(), random.Random(31)
    ObjectStore.create(path, segment_bytes=128 << 10)
    with ObjectStore.open(path, background=False) as store:
        for oid in OIDS:
            store.create_partition(oid, b"properties of %d" % oid)
            for _ in range(25):
                commit_some(store, model, oid, chance, wait=False)
        with store.begin(3, parent=5) as transaction:
            transaction.write(77, 0, b"a branch")
            epoch = transaction.commit(name="branch", note=b"\0note").epoch
        model.contents[3, epoch] = {**model.contents[3, 5], 77: b"a branch"}
        for gone in (2, 5, 6, 20):
            store.delete_generation(3, gone)
        store.delete_generation(4, 25)
    return path, model


def test_copy_holds_the_same(made: tuple[Path, Model], tmp_path: Path) -> None:
    path, model = made
    steps: list[tuple[int, int]] = []
    copy(path, tmp_path / "new.store", progress=lambda done, total: steps.append((done, total)))
    assert steps[-1] == (71, 71)
    assert fsck(tmp_path / "new.store").is_clean
    with (
        ObjectStore.open(path, read_only=True) as old,
        ObjectStore.open(tmp_path / "new.store") as new,
    ):
        assert new.partitions() == old.partitions()
        for oid in OIDS:
            assert new.properties(oid) == old.properties(oid)
            for one, other in zip(old.generations(oid), new.generations(oid), strict=True):
                assert (one.epoch, one.parent, one.time_ns) == (
                    other.epoch,
                    other.parent,
                    other.time_ns,
                )
                assert (one.name, one.note) == (other.name, other.note)
                assert one.logical_bytes == other.logical_bytes
                model.check_generation(new, oid, other.epoch)
        with new.begin(4) as transaction:
            assert transaction.commit().epoch == 26, "an epoch is never used again"


def test_copy_refuses(made: tuple[Path, Model], tmp_path: Path) -> None:
    path, _ = made
    (tmp_path / "there").write_bytes(b"precious")
    with pytest.raises(ObjectExistsError):
        copy(path, tmp_path / "there")
    assert (tmp_path / "there").read_bytes() == b"precious"
    with ObjectStore.open(path), pytest.raises(StoreBusyError):
        copy(path, tmp_path / "new")


def test_copy_of_a_damaged_store_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "damaged.store"
    ObjectStore.create(path)
    with ObjectStore.open(path) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.put(1, random.Random(1).randbytes(9 * PAGE_BYTES))
            transaction.commit()
    image = bytearray(path.read_bytes())
    image[8192 + 3 * PAGE_BYTES] ^= 1
    path.write_bytes(image)
    with pytest.raises(CorruptObjectError) as caught:
        copy(path, tmp_path / "new.store")
    assert (caught.value.oid, caught.value.generation) == (1, 1)
    assert not (tmp_path / "new.store").exists()
    report = fsck(path)
    assert {(p.oid, p.generation, p.object_id) for p in report.problems} == {(1, 1, 1)}
    assert {problem.offset for problem in report.problems} == {i * PAGE_BYTES for i in range(9)}


def test_dump_tells_all(made: tuple[Path, Model]) -> None:
    path, model = made
    items = list(dumping.dump(path))
    assert len([item for item in items if isinstance(item, dumping.SuperblockItem)]) == 2
    partitions = [item for item in items if isinstance(item, dumping.PartitionItem)]
    assert [item.oid for item in partitions] == sorted(OIDS)
    objects = [item for item in items if isinstance(item, dumping.ObjectItem)]
    assert len(objects) == sum(
        len(model.contents[item.oid, item.epoch])
        for item in items
        if isinstance(item, dumping.GenerationItem)
    )
    assert all(item.file_offset for item in items if isinstance(item, dumping.ExtentItem))
    for item in items:
        again = msgspec.json.decode(msgspec.json.encode(item), type=dumping.Item)
        assert again == item
        assert dumping.as_text(item).split()[0] == item.__struct_config__.tag
    fewer = list(dumping.dump(path, extents=False))
    assert len(fewer) < len(items)


def test_dump_of_damage_is_an_item(made: tuple[Path, Model], tmp_path: Path) -> None:
    image = bytearray(made[0].read_bytes())
    image[20] ^= 1
    path = tmp_path / "damaged.store"
    path.write_bytes(image)
    assert any(isinstance(item, dumping.ProblemItem) for item in dumping.dump(path))
    path.write_bytes(bytes(9000))
    assert [type(item) for item in dumping.dump(path)] == [dumping.ProblemItem] * 3


def test_fsck_shows_progress_and_writes_nothing(made: tuple[Path, Model]) -> None:
    path, _ = made
    before = path.read_bytes()
    seen: dict[str, tuple[int, int]] = {}
    report = fsck(path, progress=lambda what, done, total: seen.update({what: (done, total)}))
    assert report.is_clean
    assert set(seen) == {"sections", "index", "pages", "generations"}
    assert all(done == total for done, total in seen.values())
    assert report.generations == 71
    assert path.read_bytes() == before


def test_fsck_mends_a_superblock(made: tuple[Path, Model]) -> None:
    path, model = made
    image = bytearray(path.read_bytes())
    image[100] ^= 1
    path.write_bytes(image)
    assert [problem.file_offset for problem in fsck(path).problems] == [0]
    assert fsck(path, repair=True).repairs
    assert fsck(path).is_clean
    with ObjectStore.open(path) as store:
        model.check(store, dict.fromkeys(OIDS, 24))


def test_fsck_removes_a_generation_without_index(tmp_path: Path) -> None:
    device, model = MemoryDevice(new_image(tmp_path)), Model()
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        chance = random.Random(33)
        for _ in range(3):
            commit_some(store, model, 1, chance, wait=False)
        last = store.core.catalog.generation(1, 3).run_ids[-1]
        leaf = store.core.catalog.runs[last].leaves[0]
    device = MemoryDevice(device.image)
    device.image[leaf + 70] ^= 1
    report = check_device(device)
    assert {(p.oid, p.generation) for p in report.problems} >= {(1, 3)}
    assert check_device(device, repair=True).repairs
    assert check_device(device).is_clean
    with ObjectStore.open_device(device, background=False) as store:
        assert [info.epoch for info in store.generations(1)] == [1, 2]
        model.check(store, {1: 2})
        assert commit_some_epoch(store) == 4


def commit_some_epoch(store: ObjectStore) -> int:
    with store.begin(1, parent=2) as transaction:
        return transaction.commit().epoch


def test_fsck_repairs_damage_in_the_log(tmp_path: Path) -> None:
    """A durable record in the middle of the log is lost: the rest is kept."""
    device, model = MemoryDevice(new_image(tmp_path)), Model()
    store = ObjectStore.open_device(device, background=False)
    store.create_partition(1)
    chance = random.Random(34)
    ends = [store.core.log.position]
    for _ in range(6):
        commit_some(store, model, 1, chance, wait=True)
        ends.append(store.core.log.position)
    store.core.stop_threads()  # A crash: no checkpoint.
    device.image[ends[2] + 9] ^= 0xFF
    with pytest.raises(CorruptObjectError, match="durable") as caught:
        ObjectStore.open_device(MemoryDevice(device.image), background=False)
    assert caught.value.offset == ends[2]
    assert not check_device(device).is_clean
    check_device(device, repair=True)
    with ObjectStore.open_device(device, background=False) as store:
        epochs = [info.epoch for info in store.generations(1)]
        assert {1, 2} <= set(epochs)
        for epoch in epochs:
            try:
                model.check_generation(store, 1, epoch)
            except CorruptObjectError as error:
                assert error.generation == epoch, "pages of the lost record"


def test_fsck_refuses_what_is_no_store(tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_bytes(b"text" * 5000)
    with pytest.raises(StoreFormatError, match="mkfs"):
        fsck(path)
