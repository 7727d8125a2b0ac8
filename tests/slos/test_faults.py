"""Full disks and I/O errors at every call; a second opener; a file moved or deleted below."""

import errno
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from slos.errors import (
    ReadOnlyStoreError,
    SlosError,
    StoreBusyError,
    StoreDeviceError,
    StoreFullError,
)
from slos.fsck import check_device
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import FailingDevice, MemoryDevice
from tests.slos.fakes.workload import Model, commit_some, new_image

LONG = os.environ.get("SLS_LONG") == "1"


def run_with_fault(image: bytes, kinds: set[str], at: int, number: int) -> bool:
    """Run a workload in which call `at` fails; False when there are fewer calls.

    Whatever fails: what was durable stays readable now and after opening anew.
    """
    device = FailingDevice(image)
    calls = 0

    def fails(kind: str, _: int) -> int:
        nonlocal calls
        calls += kind in kinds
        return number if kind in kinds and calls == at else 0

    device.fails, device.torn = fails, at % 3 / 2
    chance = random.Random(21)
    model = Model()
    durable: dict[int, int] = {}
    try:
        store = ObjectStore.open_device(device, background=False)
    except SlosError as error:
        assert error.errno == number
        return True
    failures = 0
    for step in range(40):
        before = store.newest(1) if 1 in store.partitions() else None
        try:
            if 1 not in store.partitions():
                store.create_partition(1)
            commit_some(store, model, 1, chance, wait=True)
            durable[1] = store.durable(1)
            if step % 5 == 4:
                store.retain(1, 2)
                store.collect()
        except (StoreFullError, StoreDeviceError) as error:
            assert error.errno == number
            failures += 1
            check_after_failure(store, model, before)
        except ReadOnlyStoreError:
            assert failures
            assert store.statistics().read_only
    check_durable(store, model, durable)
    try:
        # Every other time the process ends without closing.
        (store.close if at % 2 else store.core.close)()
    except SlosError as error:
        assert error.errno == number
    device.fails = lambda kind, number: 0
    again = MemoryDevice(device.image)
    with ObjectStore.open_device(again, background=False) as store:
        check_durable(store, model, durable)
    assert check_device(again).is_clean
    return calls >= at


def check_after_failure(store: ObjectStore, model: Model, before: int | None) -> None:
    """What was there before the failed call is there and right."""
    if before is not None:
        epochs = [info.epoch for info in store.generations(1)]
        for epoch in epochs:
            model.check_generation(store, 1, epoch)


def check_durable(store: ObjectStore, model: Model, durable: dict[int, int]) -> None:
    for oid, epoch in durable.items():
        newest = store.newest(oid)
        assert newest is not None
        assert newest >= epoch
        model.check_generation(store, oid, epoch)
        model.check_generation(store, oid, newest)


@pytest.mark.crash
@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO], ids=["ENOSPC", "EIO"])
@pytest.mark.parametrize("kind", ["write", "sync", "reserve"])
def test_x04_fault_at_every_call(tmp_path: Path, kind: str, number: int) -> None:
    """ENOSPC and EIO at every write, every fsync and every reservation of a run."""
    image = new_image(tmp_path)
    at = 1
    while run_with_fault(image, {kind}, at, number):
        at += 1
    assert at > (2 if kind == "reserve" else 30)


def test_x04_full_disk_lets_delete_and_go_on(tmp_path: Path) -> None:
    """On a full disk commits fail with ENOSPC, deleting works, and then commits work again."""
    device = FailingDevice(new_image(tmp_path))
    limit = 8192 + 6 * (128 << 10)
    chance = random.Random(22)
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        reserve = device.reserve

        def bounded(offset: int, length: int) -> None:
            if offset + length > limit:
                raise OSError(errno.ENOSPC, "full")
            reserve(offset, length)

        device.reserve = bounded  # type: ignore[method-assign]
        contents: dict[int, bytes] = {}

        def fill() -> None:
            while True:
                data = chance.randbytes(8 * PAGE_BYTES)
                contents[put(store, data)] = data

        with pytest.raises(StoreFullError) as caught:
            fill()
        assert caught.value.errno == errno.ENOSPC
        epochs = [info.epoch for info in store.generations(1)]
        assert epochs == sorted(contents)
        for epoch in epochs:
            assert store.read(1, epoch, 1) == contents[epoch]
        store.retain(1, 2)
        store.collect()
        with store.begin(1) as transaction:
            transaction.put(1, b"room again")
            epoch = transaction.commit().epoch
        assert epoch == epochs[-1] + 1
        assert store.read(1, epoch, 1) == b"room again"
        assert store.read(1, epochs[-1], 1) == contents[epochs[-1]]


def test_durable_is_true_only_after_a_sync_that_succeeded(tmp_path: Path) -> None:
    device = FailingDevice(new_image(tmp_path))
    store = ObjectStore.open_device(device, background=False)
    store.create_partition(1)
    with store.begin(1) as transaction:
        transaction.put(1, b"first")
        transaction.commit()
    with store.begin(1) as transaction:
        transaction.put(1, b"second")
        info = transaction.commit(wait=False)
    assert not info.durable
    assert (store.durable(1), store.newest(1)) == (1, 2)
    device.fails = lambda kind, _: errno.EIO if kind == "sync" else 0
    with pytest.raises(StoreDeviceError) as caught:
        store.wait_durable(1, 2)
    assert caught.value.errno == errno.EIO
    device.fails = lambda kind, _: 0
    # A second fdatasync that succeeds proves nothing: the store stays read-only.
    with pytest.raises(StoreDeviceError):
        store.sync()
    assert (store.durable(1), store.newest(1)) == (1, 1)
    assert store.read(1, 1, 1) == b"first"
    with pytest.raises(ReadOnlyStoreError):
        store.begin(1)
    assert store.statistics().read_only
    store.close()


def test_004_second_opener_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    path = tmp_path / "held.store"
    ObjectStore.create(path)
    program = (
        "import sys; from slos.objstore import ObjectStore; s = ObjectStore.open(sys.argv[1]);"
        "print('open', flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", program, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        assert holder.stdout.readline() == b"open\n"
        for read_only in (False, True):
            with pytest.raises(StoreBusyError, match=str(holder.pid)) as caught:
                ObjectStore.open(path, read_only=read_only)
            assert caught.value.holder_pid == holder.pid
            assert caught.value.errno == errno.EBUSY
        holder.stdin.close()
    ObjectStore.open(path).close()


def test_several_readers_share_a_store(tmp_path: Path) -> None:
    path = tmp_path / "read.store"
    ObjectStore.create(path)
    with ObjectStore.open(path, read_only=True), ObjectStore.open(path, read_only=True) as store:
        with pytest.raises(ReadOnlyStoreError):
            store.create_partition(1)
        with pytest.raises(StoreBusyError):
            ObjectStore.open(path)


def put(store: ObjectStore, data: bytes) -> int:
    with store.begin(1) as transaction:
        transaction.put(1, data)
        return transaction.commit().epoch


def test_store_moved_while_open(tmp_path: Path) -> None:
    path = tmp_path / "moved.store"
    ObjectStore.create(path)
    with ObjectStore.open(path) as store:
        store.create_partition(1)
        path.rename(tmp_path / "elsewhere.store")
        epoch = put(store, b"after the move")
    with ObjectStore.open(tmp_path / "elsewhere.store") as store:
        assert store.read(1, epoch, 1) == b"after the move"


def test_store_deleted_while_open(tmp_path: Path) -> None:
    """What is written to a deleted file does not last: it is an error, never `durable`."""
    path = tmp_path / "deleted.store"
    ObjectStore.create(path)
    store = ObjectStore.open(path)
    store.create_partition(1)
    epoch = put(store, b"before")
    path.unlink()
    with pytest.raises(StoreDeviceError, match="deleted") as caught:
        put(store, b"after")
    assert caught.value.errno == errno.ESTALE
    assert store.durable(1) == epoch
    assert store.read(1, epoch, 1) == b"before"
    store.close()


def test_store_made_read_only_while_open(tmp_path: Path) -> None:
    path = tmp_path / "mode.store"
    ObjectStore.create(path)
    with ObjectStore.open(path) as store:
        store.create_partition(1)
        path.chmod(0o400)
        epoch = put(store, b"the descriptor was opened for writing")
    with ObjectStore.open(path, read_only=True) as store:
        assert store.durable(1) == epoch


def test_erofs_is_told_apart(tmp_path: Path) -> None:
    device = FailingDevice(new_image(tmp_path))
    store = ObjectStore.open_device(device, background=False)
    store.create_partition(1)
    device.fails = lambda kind, _: errno.EROFS
    with pytest.raises(ReadOnlyStoreError, match="remount"):
        put(store, b"x")
    store.core.close()
