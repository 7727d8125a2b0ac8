"""Power cuts: after every write the store opens by itself and holds what was durable."""

import os
import random
from pathlib import Path

import pytest

from slos.fsck import check_device
from slos.objstore import ObjectStore
from tests.slos.fakes.device import MemoryDevice, RecordingDevice, crash_images
from tests.slos.fakes.workload import Model, commit_some, new_image

LONG = os.environ.get("SLS_LONG") == "1"
OIDS = (1, 2, 65536)
PARTS = 4


def run_workload(
    device: RecordingDevice, model: Model, commits: int, seed: int
) -> list[tuple[int, dict[int, int]]]:
    """(operations done, durable epochs) whenever something became durable."""
    chance = random.Random(seed)
    marks: list[tuple[int, dict[int, int]]] = []
    store = ObjectStore.open_device(device, background=False)
    for oid in OIDS:
        store.create_partition(oid)
    for number in range(commits):
        oid = chance.choice(OIDS)
        wait = chance.random() < 0.6
        commit_some(store, model, oid, chance, wait=wait)
        if wait:
            marks.append((len(device.operations), {o: store.durable(o) for o in OIDS}))
        if number % 7 == 0:
            store.retain(oid, 4)
        if number % 40 == 39:
            store.collect()
        if number % 90 == 89:
            store.close()
            device.closed = False
            store = ObjectStore.open_device(device, background=False)
    store.close()
    return marks


@pytest.mark.crash
@pytest.mark.parametrize("part", range(PARTS))
def test_x02_power_cut_at_every_write(tmp_path: Path, part: int) -> None:
    """500 commits on 3 partitions with deletes and collection, cut after every operation."""
    device = RecordingDevice(new_image(tmp_path))
    model = Model()
    marks = run_workload(device, model, 500, seed=2)
    assert sum(operation.kind == "punch" for operation in device.operations) > 5
    chance = random.Random(3 + part)
    durable: dict[int, int] = {}
    cuts = 0
    for done, how, image in crash_images(
        device, chance, orders=4 if LONG else 1, part=part, parts=PARTS
    ):
        while marks and marks[0][0] <= done:
            durable = marks.pop(0)[1]
        try:
            with ObjectStore.open_device(MemoryDevice(image), background=False) as store:
                expected = {oid: epoch for oid, epoch in durable.items() if epoch}
                model.check(store, expected, older=1000 if LONG else cuts % 2)
        except Exception as error:
            error.add_note(f"after {done} operations, writes since the last sync {how}")
            raise
        cuts += 1
    assert cuts > 2000 / PARTS


@pytest.mark.crash
def test_x02_power_cut_again_during_recovery(tmp_path: Path) -> None:
    """A second cut while the first one is being recovered from."""
    device = RecordingDevice(new_image(tmp_path))
    model = Model()
    run_workload(device, model, 30, seed=5)
    chance = random.Random(6)
    for done, _, image in crash_images(device, chance, orders=0):
        if done % (3 if LONG else 41):
            continue
        again = RecordingDevice(image)
        with ObjectStore.open_device(again, background=False) as store:
            newest = {oid: store.newest(oid) or 0 for oid in store.partitions()}
        for _, _, second in crash_images(again, chance, orders=1):
            with ObjectStore.open_device(MemoryDevice(second), background=False) as store:
                model.check(store, {oid: epoch for oid, epoch in newest.items() if epoch})


@pytest.mark.crash
def test_x01_fsck_is_clean_after_a_cut(tmp_path: Path) -> None:
    """What recovery leaves holds up to a check of every checksum and reference."""
    device = RecordingDevice(new_image(tmp_path))
    run_workload(device, Model(), 60, seed=8)
    for done, how, image in crash_images(device, random.Random(9), orders=1):
        if done % (5 if LONG else 41) == 0:
            crashed = MemoryDevice(image)
            ObjectStore.open_device(crashed, background=False).close()
            report = check_device(crashed)
            assert report.is_clean, (done, how, report.problems)
