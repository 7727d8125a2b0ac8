"""A store's contents as records to print: superblocks, segments, generations, objects, extents.

Reads only, under the shared lock; what is damaged is an item of the dump, not its end.
"""

import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import msgspec
import numpy as np

from slos import lifecycle
from slos.device import Device
from slos.errors import SlosError, device_error
from slos.format import SUPERBLOCK_BYTES, SUPERBLOCK_OFFSETS, Superblock, decode_superblock
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES


class SuperblockItem(msgspec.Struct, frozen=True, tag="superblock", tag_field="item"):
    """One copy of the superblock."""

    file_offset: int
    block: Superblock


class SegmentItem(msgspec.Struct, frozen=True, tag="segment", tag_field="item"):
    """One segment; epoch 0 is free."""

    index: int
    file_offset: int
    epoch: int


class PartitionItem(msgspec.Struct, frozen=True, tag="partition", tag_field="item"):
    """One partition."""

    oid: int
    generations: int
    last_epoch: int
    properties: bytes


class GenerationItem(msgspec.Struct, frozen=True, tag="generation", tag_field="item"):
    """One generation and the runs of its index, oldest first."""

    oid: int
    epoch: int
    parent: int
    time_ns: int
    name: str
    logical_bytes: int
    stored_bytes: int
    runs: tuple[int, ...]


class ObjectItem(msgspec.Struct, frozen=True, tag="object", tag_field="item"):
    """One object of a generation."""

    oid: int
    epoch: int
    object_id: int
    size_bytes: int
    stored_bytes: int


class ExtentItem(msgspec.Struct, frozen=True, tag="extent", tag_field="item"):
    """Neighbouring pages of an object that lie in one record; file offset 0 is lost."""

    oid: int
    epoch: int
    object_id: int
    offset: int
    length: int
    file_offset: int


class ProblemItem(msgspec.Struct, frozen=True, tag="problem", tag_field="item"):
    """What could not be read."""

    text: str


Item = (
    SuperblockItem
    | SegmentItem
    | PartitionItem
    | GenerationItem
    | ObjectItem
    | ExtentItem
    | ProblemItem
)


def dump(path: str | os.PathLike[str], *, extents: bool = True) -> Iterator[Item]:
    """Everything the store holds but the data itself."""
    device = lifecycle.open_device(path, read_only=True)
    copies = [_superblock(device, offset) for offset in SUPERBLOCK_OFFSETS]
    try:
        store = ObjectStore.open_device(device, read_only=True)
    except SlosError as error:
        yield from copies
        yield ProblemItem(str(error))
        return
    with store:
        yield from copies
        yield from _segments(store)
        for oid in sorted(store.core.catalog.partitions):
            yield from _partition(store, oid, extents=extents)


def _superblock(device: Device, offset: int) -> Item:
    try:
        return SuperblockItem(offset, decode_superblock(device.read(offset, SUPERBLOCK_BYTES)))
    except SlosError as error:
        return ProblemItem(f"superblock at {offset}: {error}")
    except OSError as error:
        return ProblemItem(str(device_error(error, f"reading the superblock at {offset}")))


def _segments(store: ObjectStore) -> Iterator[Item]:
    log = store.core.log
    for index, epoch in enumerate(log.epochs):
        yield SegmentItem(index, log.segment_start(index), epoch)


def _partition(store: ObjectStore, oid: int, *, extents: bool) -> Iterator[Item]:
    partition = store.core.catalog.partition(oid)
    yield PartitionItem(oid, len(partition.generations), partition.last_epoch, partition.properties)
    for epoch, generation in partition.generations.items():
        record = generation.record
        yield GenerationItem(
            oid,
            epoch,
            record.parent,
            record.time_ns,
            record.name,
            record.logical_bytes,
            record.stored_bytes,
            generation.run_ids,
        )
        try:
            for info in store.objects(oid, epoch):
                yield ObjectItem(oid, epoch, info.object_id, info.size_bytes, info.stored_bytes)
                if extents:
                    yield from _extents(store, oid, epoch, info.object_id)
        except SlosError as error:
            yield ProblemItem(str(error))


def _extents(store: ObjectStore, oid: int, epoch: int, object_id: int) -> Iterator[Item]:
    core = store.core
    pages, ids = core.pages_of(core.catalog.generation(oid, epoch), object_id)
    offsets = core.locate(ids).offsets
    breaks = np.flatnonzero((np.diff(pages) != 1) | (np.diff(offsets) != 0)) + 1
    bounds = [0, *breaks.tolist(), len(pages)]
    for start, stop in pairwise(bounds):
        if start < stop:
            yield ExtentItem(
                oid,
                epoch,
                object_id,
                int(pages[start]) * PAGE_BYTES,
                (stop - start) * PAGE_BYTES,
                int(offsets[start]),
            )


def as_text(item: Item) -> str:
    """One line for a terminal."""
    fields: dict[str, Any] = msgspec.structs.asdict(item)
    words = [f"{name}={value!r}" for name, value in fields.items()]
    return f"{item.__struct_config__.tag} {' '.join(words)}"


def as_json(item: Item) -> str:
    """One JSON object, bytes in base64; msgspec decodes it as an `Item` again."""
    return msgspec.json.encode(item).decode()
