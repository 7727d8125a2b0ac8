"""A store's contents as they should be, and a workload that keeps them in step."""

import random
from dataclasses import dataclass, field
from pathlib import Path

from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES

Contents = dict[int, bytes]
SEGMENT_BYTES = 128 << 10


def new_image(directory: Path, *, segment_bytes: int = SEGMENT_BYTES) -> bytes:
    """The bytes of an empty store, the same every time."""
    path = directory / "new.store"
    ObjectStore.create(path, segment_bytes=segment_bytes, uuid=bytes(range(16)), created_ns=1)
    image = path.read_bytes()
    path.unlink()
    return image


@dataclass
class Model:
    """What every generation ever committed holds, and which must be there."""

    contents: dict[tuple[int, int], Contents] = field(default_factory=dict)
    deleted: set[tuple[int, int]] = field(default_factory=set)

    def check(self, store: ObjectStore, durable: dict[int, int], *, older: int = 1000) -> None:
        """Generations are whole, up to `older` beside the newest; the newest is no older than
        the last durable one.
        """
        for oid, epoch in durable.items():
            newest = store.newest(oid)
            assert newest is not None
            assert newest >= epoch, (oid, newest, epoch)
        for oid in store.partitions():
            epochs = [info.epoch for info in store.generations(oid)]
            for epoch in epochs[-1 - older :]:
                self.check_generation(store, oid, epoch)

    def check_generation(self, store: ObjectStore, oid: int, epoch: int) -> None:
        expected = self.contents[oid, epoch]
        objects = store.objects(oid, epoch)
        assert [info.object_id for info in objects] == sorted(expected)
        for info in objects:
            assert store.read(oid, epoch, info.object_id) == expected[info.object_id]


def page(chance: random.Random) -> bytes:
    """Compressible, incompressible, zero or common."""
    kind = chance.randrange(8)
    if kind == 0:
        return bytes(PAGE_BYTES)
    if kind == 1:
        return b"the same everywhere" + bytes(PAGE_BYTES - 19)
    if kind < 5:
        return chance.randbytes(256) * (PAGE_BYTES // 256)
    return chance.randbytes(PAGE_BYTES)


def commit_some(
    store: ObjectStore, model: Model, oid: int, chance: random.Random, *, wait: bool
) -> int:
    """One commit of a few pages, parts of pages, truncations and removals."""
    parent = store.newest(oid)
    contents = dict(model.contents[oid, parent]) if parent is not None else {}
    with store.begin(oid, parent=parent) as transaction:
        for _ in range(chance.randrange(1, 4)):
            object_id = chance.choice([0, 3, 1 << 63])
            data = bytearray(contents.get(object_id, b""))
            match chance.randrange(10):
                case 0 if object_id in contents:
                    transaction.remove(object_id)
                    del contents[object_id]
                    continue
                case 1:
                    size = chance.randrange(6 * PAGE_BYTES)
                    transaction.truncate(object_id, size)
                    data = data[:size] + bytes(size - len(data[:size]))
                case 2 if object_id in contents:
                    start, length = chance.randrange(20000), chance.randrange(9000)
                    transaction.discard(object_id, start, length)
                    end = min(len(data), start + length)
                    if start < end:
                        data[start:end] = bytes(end - start)
                case 3 | 4:
                    start, part = chance.randrange(20000), chance.randbytes(chance.randrange(99))
                    transaction.write(object_id, start, part)
                    overwrite(data, start, part)
                case _:
                    numbers = sorted(chance.sample(range(8), 2))
                    pages = [page(chance) for _ in numbers]
                    transaction.write_pages(object_id, numbers, b"".join(pages))
                    for number, new in zip(numbers, pages, strict=True):
                        overwrite(data, number * PAGE_BYTES, new)
            contents[object_id] = bytes(data)
        epoch = (parent or 0) + 1
        model.contents[oid, epoch] = contents
        info = transaction.commit(wait=wait)
    assert info.epoch == epoch
    return epoch


def overwrite(data: bytearray, start: int, part: bytes) -> None:
    if part and len(data) < start:
        data.extend(bytes(start - len(data)))
    data[start : start + len(part)] = part
