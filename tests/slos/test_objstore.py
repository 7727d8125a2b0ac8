"""The store against a dict: hypothesis drives both, with crash and reopen as rules."""

import os
import random
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from slos.errors import ObjectExistsError, ObjectNotFoundError
from slos.extents import View
from slos.format import Array
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES, Store
from tests.slos.fakes.device import MemoryDevice, RecordingDevice, crash_images
from tests.slos.fakes.workload import Contents, new_image, overwrite

LONG = os.environ.get("SLS_LONG") == "1"
OIDS = st.sampled_from([1, 7])
OBJECTS = st.sampled_from([0, 1, (1 << 64) - 1])
OFFSETS = st.one_of(
    st.integers(0, 5 * PAGE_BYTES), st.sampled_from([0, PAGE_BYTES, 3 * PAGE_BYTES])
)
PIECES = st.one_of(
    st.binary(max_size=40),
    st.integers(0, 3).map(lambda seed: random.Random(seed).randbytes(PAGE_BYTES)),
    st.integers(0, 3).map(lambda seed: random.Random(seed).randbytes(2 * PAGE_BYTES)),
    st.just(2).map(lambda pages: bytes(pages * PAGE_BYTES)),
)
WRITE = st.tuples(st.just("write"), OBJECTS, OFFSETS, PIECES)
CHANGE = st.one_of(
    WRITE,
    WRITE,
    st.tuples(st.just("put"), OBJECTS, st.just(0), PIECES),
    st.tuples(st.just("truncate"), OBJECTS, OFFSETS, st.just(b"")),
    st.tuples(st.just("discard"), OBJECTS, OFFSETS, PIECES),
    st.tuples(st.just("remove"), OBJECTS, st.just(0), st.just(b"")),
    st.tuples(st.just("clone"), OBJECTS, st.integers(0, 2), st.just(b"")),
)


def change(contents: Contents, kind: str, object_id: int, offset: int, piece: bytes) -> None:
    """What a transaction's method does, done to a dict."""
    data = bytearray(contents.get(object_id, b""))
    match kind:
        case "write":
            overwrite(data, offset, piece)
        case "put":
            data = bytearray(piece)
        case "truncate":
            data = data[:offset] + bytes(max(0, offset - len(data)))
        case "discard":
            end = min(len(data), offset + len(piece))
            if offset < end:
                data[offset:end] = bytes(end - offset)
        case "remove":
            del contents[object_id]
            return
    contents[object_id] = bytes(data)


class StoreMachine(RuleBasedStateMachine):
    """One store, and what it should hold: (oid, epoch) → {object: bytes}."""

    def __init__(self) -> None:
        super().__init__()
        self.directory = Path(tempfile.mkdtemp(prefix="slos-test-"))
        self.known: dict[tuple[int, int], Contents] = {}
        self.present: set[tuple[int, int]] = set()
        self.last = {1: 0, 7: 0}
        self.partitions: set[int] = set()

    def teardown(self) -> None:
        self.store.close()
        shutil.rmtree(self.directory)

    @initialize()
    def open(self) -> None:
        self.device = RecordingDevice(new_image(self.directory))
        self.store = ObjectStore.open_device(self.device, background=False)

    @rule(oid=OIDS)
    def create_partition(self, oid: int) -> None:
        if oid in self.partitions:
            with pytest.raises(ObjectExistsError):
                self.store.create_partition(oid)
        else:
            self.store.create_partition(oid, b"%d" % oid)
            self.partitions.add(oid)

    @precondition(lambda self: self.partitions)
    @rule(
        data=st.data(),
        changes=st.lists(CHANGE, max_size=6),
        wait=st.booleans(),
        abort=st.integers(0, 9).map(lambda number: number == 0),
    )
    def commit(
        self,
        data: st.DataObject,
        changes: list[tuple[str, int, int, bytes]],
        wait: bool,
        abort: bool,
    ) -> None:
        oid = data.draw(st.sampled_from(sorted(self.partitions)))
        epochs = sorted(epoch for owner, epoch in self.present if owner == oid)
        parent = data.draw(st.sampled_from([None, *epochs, *epochs[-1:] * 3]))
        contents = dict(self.known[oid, parent]) if parent is not None else {}
        with self.store.begin(oid, parent=parent) as transaction:
            for kind, object_id, offset, piece in changes:
                if kind == "clone":
                    self.clone(transaction, contents, object_id, offset)
                elif kind in ("discard", "remove") and object_id not in contents:
                    with pytest.raises(ObjectNotFoundError):
                        transaction.remove(object_id)
                else:
                    change(contents, kind, object_id, offset, piece)
                    arguments: tuple[object, ...] = {
                        "write": (offset, piece),
                        "put": (piece,),
                        "truncate": (offset,),
                        "discard": (offset, len(piece)),
                        "remove": (),
                    }[kind]
                    getattr(transaction, kind)(object_id, *arguments)
            if abort:
                return
            info = transaction.commit(wait=wait)
        assert info.epoch == self.last[oid] + 1
        assert info.parent == parent
        assert info.durable or not wait
        self.last[oid] = info.epoch
        self.known[oid, info.epoch] = contents
        self.present.add((oid, info.epoch))

    def clone(self, transaction: object, contents: Contents, target: int, choice: int) -> None:
        sources = [
            (oid, epoch, object_id)
            for oid, epoch in sorted(self.present)
            for object_id in sorted(self.known[oid, epoch])
        ]
        if sources:
            oid, epoch, source = sources[choice % len(sources)]
            transaction.clone(target, oid, epoch, source)  # type: ignore[attr-defined]
            contents[target] = self.known[oid, epoch][source]

    @precondition(lambda self: self.present)
    @rule(data=st.data())
    def delete_generation(self, data: st.DataObject) -> None:
        oid, epoch = data.draw(st.sampled_from(sorted(self.present)))
        self.store.delete_generation(oid, epoch)
        self.present.discard((oid, epoch))
        with pytest.raises(ObjectNotFoundError):
            self.store.read(oid, epoch, 0)

    @precondition(lambda self: self.partitions)
    @rule(count=st.integers(1, 3))
    def retain(self, count: int) -> None:
        oid = min(self.partitions)
        epochs = sorted(epoch for owner, epoch in self.present if owner == oid)
        self.store.retain(oid, count, keep=epochs[:1])
        self.present -= {(oid, epoch) for epoch in epochs[1:][:-count]}

    @rule()
    def collect(self) -> None:
        self.store.collect()

    @rule()
    def collect_step(self) -> None:
        self.store.collect_step()

    @rule()
    def checkpoint(self) -> None:
        self.store.checkpoint()

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.device = RecordingDevice(self.device.image)
        self.store = ObjectStore.open_device(self.device, background=False)

    @rule(seed=st.integers(0, 1 << 16), how=st.sampled_from(["kept", "lost", "reordered"]))
    def crash(self, seed: int, how: str) -> None:
        durable = {oid: self.store.durable(oid) for oid in self.partitions}
        images = [
            image
            for done, kind, image in crash_images(self.device, random.Random(seed), 1)
            if kind == how and done == len(self.device.operations)
        ]
        self.store.core.stop_threads()
        self.device = RecordingDevice(images[-1] if images else self.device.image)
        self.store = ObjectStore.open_device(self.device, background=False)
        assert self.partitions == set(self.store.partitions())
        found = {(oid, g.epoch) for oid in self.partitions for g in self.store.generations(oid)}
        for oid in self.partitions:
            newest = self.store.newest(oid) or 0
            assert newest >= durable[oid] or (oid, durable[oid]) not in self.present
            self.last[oid] = self.store.core.catalog.partition(oid).last_epoch
        # A deletion that was not durable may be undone.
        assert found <= set(self.known)
        self.present = found

    @invariant()
    def is_as_it_should_be(self) -> None:
        found = {(oid, g.epoch) for oid in self.partitions for g in self.store.generations(oid)}
        assert found == self.present
        for oid, epoch in sorted(found)[-3:]:
            check_contents(self.store, oid, epoch, self.known[oid, epoch])


def check_contents(store: Store, oid: int, epoch: int, expected: Contents) -> None:
    """Objects, sizes, whole and partial reads, data ranges."""
    objects = {info.object_id: info.size_bytes for info in store.objects(oid, epoch)}
    assert objects == {object_id: len(data) for object_id, data in expected.items()}
    pages = 0
    for object_id, data in expected.items():
        assert store.read(oid, epoch, object_id) == data
        assert store.read(oid, epoch, object_id, 100, 5000) == data[100:5100]
        shown = bytearray(len(data))
        for start, end in store.data_ranges(oid, epoch, object_id):
            shown[start:end] = store.read(oid, epoch, object_id, start, end - start)
            pages += -(-end // PAGE_BYTES) - start // PAGE_BYTES
        assert shown == data
    assert store.generation(oid, epoch).logical_bytes == pages * PAGE_BYTES


def test_x02_store_is_a_dict_that_survives() -> None:
    run_state_machine_as_test(
        StoreMachine,
        settings=settings(
            max_examples=2000 if LONG else 300,
            stateful_step_count=30,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_holes_by_the_thousand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes in any order between writes: right, and each of them asks few of those before it."""
    asked = 0
    look = View.slice

    def counted(view: View, object_id: int, first: int, last: int) -> tuple[Array, Array]:
        nonlocal asked
        asked += 1
        return look(view, object_id, first, last)

    monkeypatch.setattr(View, "slice", counted)
    chance = random.Random(71)
    pages, holes = 4096, 3000
    data = bytearray(chance.randbytes(pages * PAGE_BYTES))
    device = MemoryDevice(new_image(tmp_path, segment_bytes=1 << 20))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.write(1, 0, data)
            transaction.commit()
        asked = 0
        with store.begin(1, parent=1) as transaction:
            for number in chance.sample(range(pages), holes):
                start = number * PAGE_BYTES
                length = chance.choice([PAGE_BYTES, 3 * PAGE_BYTES])
                transaction.discard(1, start, length)
                end = min(len(data), start + length)
                data[start:end] = bytes(end - start)
                if number % 100 == 0:
                    part = chance.randbytes(PAGE_BYTES)
                    transaction.write_pages(1, [number], part)
                    overwrite(data, start, part)
            transaction.commit()
        assert asked < holes * 32
        check_contents(store, 1, 2, {1: bytes(data)})
