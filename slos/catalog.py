"""What the store holds: partitions, generations, runs and blocks, as they are in memory.

Changes come as commits and events, the same ones whether they were just appended or are replayed
after a crash. Remembers which sections of the checkpoint they touch. No file; callers lock.
"""

from collections.abc import Iterable
from enum import IntEnum

import msgspec
import numpy as np
from numpy.typing import NDArray

from slos.blocks import BlockTable
from slos.errors import ObjectNotFoundError
from slos.format import U64, Array
from slos.request import not_found
from slos.store import GenerationInfo

GENERATIONS_SHIFT = 8
RUNS_SHIFT = 12
BLOCKS_SHIFT = 14


class CommitRecord(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A generation as the log and the checkpoint keep it; parent 0 is none."""

    oid: int
    epoch: int
    parent: int
    time_ns: int
    name: str
    note: bytes
    logical_bytes: int
    stored_bytes: int
    runs: bytes


class PartitionCreated(msgspec.Struct, frozen=True, array_like=True, tag=1):
    """A partition begins; its epochs continue after `last_epoch`."""

    oid: int
    properties: bytes
    last_epoch: int = 0


class PartitionDeleted(msgspec.Struct, frozen=True, array_like=True, tag=2):
    """A partition ends with all its generations."""

    oid: int


class PropertiesSet(msgspec.Struct, frozen=True, array_like=True, tag=3):
    """A partition's properties are replaced."""

    oid: int
    properties: bytes


class GenerationsDeleted(msgspec.Struct, frozen=True, array_like=True, tag=4):
    """Generations end."""

    oid: int
    epochs: tuple[int, ...]


class NameSet(msgspec.Struct, frozen=True, array_like=True, tag=5):
    """A generation is renamed."""

    oid: int
    epoch: int
    name: str


Event = PartitionCreated | PartitionDeleted | PropertiesSet | GenerationsDeleted | NameSet


class SectionKind(IntEnum):
    """Parts of a checkpoint that are rewritten independently."""

    ROOT = 0
    COUNTERS = 1
    SEGMENTS = 2
    PARTITIONS = 3
    GENERATIONS = 4
    RUNS = 5
    BLOCKS = 6
    HASHES = 7


SectionKey = tuple[SectionKind, int]


class Generation:
    """One generation. `pins` counts transactions and readers that need it though deleted.

    `solid` has, for some objects, pages (first, end) all of which hold data: a memory of what was
    found out, handed on to children. It is replaced, never changed.
    """

    __slots__ = ("lsn", "pins", "record", "run_ids", "solid")

    def __init__(self, record: CommitRecord, lsn: int):
        self.record = record
        self.lsn = lsn
        self.pins = 0
        self.solid: dict[int, tuple[int, int]] = {}
        self.run_ids = tuple(np.frombuffer(record.runs, U64).tolist())

    def info(self, durable_lsn: int) -> GenerationInfo:
        record = self.record
        return GenerationInfo(
            epoch=record.epoch,
            parent=record.parent or None,
            time_ns=record.time_ns,
            name=record.name,
            logical_bytes=record.logical_bytes,
            stored_bytes=record.stored_bytes,
            durable=self.lsn <= durable_lsn,
            note=record.note,
        )


class Partition:
    """One partition; `generations` ascends by epoch."""

    __slots__ = ("generations", "last_epoch", "properties")

    def __init__(self, properties: bytes, last_epoch: int = 0):
        self.properties = properties
        self.last_epoch = last_epoch
        self.generations: dict[int, Generation] = {}


class Run:
    """Where the leaves of a run lie."""

    __slots__ = ("entries", "holes", "leaves", "sizes")

    def __init__(self, entries: int, holes: bool, leaves: list[int], sizes: list[int]):
        self.entries = entries
        self.holes = holes
        self.leaves = leaves
        self.sizes = sizes


class Catalog:
    """The state of a store."""

    def __init__(self) -> None:
        self.partitions: dict[int, Partition] = {}
        self.runs: dict[int, Run] = {}
        self.blocks = BlockTable()
        self.next_block = 1
        self.next_run = 1
        self.dirty: set[SectionKey] = set()
        # Deleted, but still read or built upon.
        self.pinned: set[Generation] = set()
        self.deleted_bytes = 0

    def partition(self, oid: int) -> Partition:
        partition = self.partitions.get(oid)
        if partition is None:
            raise ObjectNotFoundError(f"no partition {oid}; create it first", oid=oid)
        return partition

    def generation(self, oid: int, epoch: int) -> Generation:
        generation = self.partition(oid).generations.get(epoch)
        if generation is None:
            raise not_found(oid, epoch)
        return generation

    def take_blocks(self, count: int) -> int:
        """Numbers for new blocks: the first of `count`."""
        first = self.next_block
        self.next_block += count
        return first

    def take_run(self) -> int:
        """A number for a new run."""
        self.next_run += 1
        return self.next_run - 1

    def add_blocks(
        self, first: int, offsets: list[int], counts: list[int], sizes: list[int]
    ) -> None:
        """Blocks that were appended."""
        self.blocks.add(first, offsets, counts, sizes)
        self.next_block = max(self.next_block, first + len(offsets))
        last = first + len(offsets) - 1
        for key in range(first >> BLOCKS_SHIFT, (last >> BLOCKS_SHIFT) + 1):
            self.dirty.add((SectionKind.BLOCKS, key))

    def move_pages(self, page_ids: Array, offset: int, size: int) -> None:
        """Pages that were moved by collection."""
        blocks = self.blocks.move(page_ids, offset, size)
        for key in np.unique(blocks >> np.uint64(BLOCKS_SHIFT)).tolist():
            self.dirty.add((SectionKind.BLOCKS, key))

    def drop_blocks(self, gone: NDArray[np.bool_]) -> None:
        """Blocks of which no generation needs a page, as marked rows."""
        ids = self.blocks.rows["id"][gone]
        for key in np.unique(ids >> np.uint64(BLOCKS_SHIFT)).tolist():
            self.dirty.add((SectionKind.BLOCKS, key))
        self.blocks.drop(gone)

    def add_run(self, run_id: int, run: Run) -> None:
        """A run that was appended, or moved by collection."""
        self.runs[run_id] = run
        self.next_run = max(self.next_run, run_id + 1)
        self.dirty.add((SectionKind.RUNS, run_id >> RUNS_SHIFT))

    def drop_runs(self, run_ids: Iterable[int]) -> None:
        """Runs that no generation needs."""
        for run_id in run_ids:
            del self.runs[run_id]
            self.dirty.add((SectionKind.RUNS, run_id >> RUNS_SHIFT))

    def touch(self, oid: int, epoch: int) -> None:
        """A generation's record changed."""
        self.dirty.add((SectionKind.GENERATIONS, oid << 32 | epoch >> GENERATIONS_SHIFT))

    def commit(self, record: CommitRecord, lsn: int) -> Generation:
        """A generation comes to be."""
        partition = self.partition(record.oid)
        generation = Generation(record, lsn)
        partition.generations[record.epoch] = generation
        partition.last_epoch = max(partition.last_epoch, record.epoch)
        self.dirty.add((SectionKind.PARTITIONS, 0))
        self.touch(record.oid, record.epoch)
        return generation

    def drop_generation(self, oid: int, epoch: int) -> None:
        """A generation ends."""
        generation = self.partition(oid).generations.pop(epoch)
        self.deleted_bytes += generation.record.stored_bytes
        if generation.pins:
            self.pinned.add(generation)
        self.touch(oid, epoch)

    def apply(self, event: Event) -> None:
        """Replay or carry out an event; what it names is there."""
        self.dirty.add((SectionKind.PARTITIONS, 0))
        match event:
            case PartitionCreated(oid, properties, last_epoch):
                self.partitions[oid] = Partition(properties, last_epoch)
            case PartitionDeleted(oid):
                for epoch in list(self.partition(oid).generations):
                    self.drop_generation(oid, epoch)
                del self.partitions[oid]
            case PropertiesSet(oid, properties):
                self.partition(oid).properties = properties
            case GenerationsDeleted(oid, epochs):
                for epoch in epochs:
                    self.drop_generation(oid, epoch)
            case NameSet(oid, epoch, name):
                generation = self.generation(oid, epoch)
                generation.record = msgspec.structs.replace(generation.record, name=name)
                self.touch(oid, epoch)

    def pin(self, generation: Generation) -> None:
        """Keep a generation's runs and blocks though it may be deleted."""
        generation.pins += 1

    def unpin(self, generation: Generation) -> None:
        """Undo one `pin`."""
        generation.pins -= 1
        if not generation.pins:
            self.pinned.discard(generation)

    def live_generations(self) -> list[tuple[int, Generation]]:
        """(oid, generation) of all that must stay readable."""
        held = [
            (oid, generation)
            for oid, partition in self.partitions.items()
            for generation in partition.generations.values()
        ]
        return held + [(generation.record.oid, generation) for generation in self.pinned]
