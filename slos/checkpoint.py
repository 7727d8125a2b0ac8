"""Checkpoints: the catalog written into the log, section by section, so that opening a store
reads neither history nor data.

A section that nothing touched since the last checkpoint is referred to again, not rewritten. Every
chunk is written twice, apart from its copy. Callers hold the append lock; encoding takes the
state lock of the store.
"""

from collections.abc import Iterator, Sequence

import lz4.block
import msgspec
import numpy as np

from slos.blocks import ROW
from slos.catalog import (
    BLOCKS_SHIFT,
    GENERATIONS_SHIFT,
    RUNS_SHIFT,
    Catalog,
    CommitRecord,
    Generation,
    Partition,
    Run,
    SectionKey,
    SectionKind,
)
from slos.codec import compress, decompress
from slos.errors import CorruptObjectError
from slos.format import (
    HEADER_BYTES,
    MAX_RECORD_BYTES,
    SECTION_BYTES,
    U64,
    Draft,
    Header,
    RecordType,
    decode_columns,
    encode_columns,
    padded,
)
from slos.log import Log

_MAX_ROWS = 1 << 24


class Chunk(msgspec.Struct, frozen=True, array_like=True):
    """Both places of a chunk, and its length in the log."""

    first: int
    second: int
    size: int


class SectionRef(msgspec.Struct, frozen=True, array_like=True):
    """Where a section lies."""

    kind: SectionKind
    key: int
    chunks: tuple[Chunk, ...]


class Counters(msgspec.Struct, frozen=True, array_like=True):
    """Numbers that only grow."""

    next_block: int
    next_run: int
    deleted_bytes: int = 0


class PartitionRecord(msgspec.Struct, frozen=True, array_like=True):
    """A partition without its generations."""

    oid: int
    last_epoch: int
    properties: bytes


class RunRows(msgspec.Struct, frozen=True, array_like=True):
    """Runs: `runs` has columns id, entries, holes, leaves; `leaves` has offset, size."""

    run_count: int
    leaf_count: int
    runs: bytes
    leaves: bytes


class BlockRows(msgspec.Struct, frozen=True, array_like=True):
    """Blocks: columns id, unit, mask + base·2^16 + total·2^24, size."""

    count: int
    columns: bytes


class HashRows(msgspec.Struct, frozen=True, array_like=True):
    """Hashes of pages: columns page id, hash; ascending by page id."""

    count: int
    columns: bytes


_partitions = msgspec.msgpack.Decoder(list[PartitionRecord])
_generations = msgspec.msgpack.Decoder(list[CommitRecord])
_runs = msgspec.msgpack.Decoder(RunRows)
_blocks = msgspec.msgpack.Decoder(BlockRows)
_hashes = msgspec.msgpack.Decoder(HashRows)
_counters = msgspec.msgpack.Decoder(Counters)
_refs = msgspec.msgpack.Decoder(list[SectionRef])
_chunks = msgspec.msgpack.Decoder(tuple[Chunk, ...])
encode = msgspec.msgpack.Encoder().encode


def encode_section(catalog: Catalog, key: SectionKey) -> bytes | None:
    """The section's bytes, None where it has become empty."""
    kind, number = key
    if kind is SectionKind.PARTITIONS:
        return encode(
            [
                PartitionRecord(oid, partition.last_epoch, partition.properties)
                for oid, partition in sorted(catalog.partitions.items())
            ]
        )
    if kind is SectionKind.GENERATIONS:
        return _encode_generations(catalog, number)
    if kind is SectionKind.RUNS:
        return _encode_runs(catalog, number)
    assert kind is SectionKind.BLOCKS
    return _encode_blocks(catalog, number)


def _encode_generations(catalog: Catalog, number: int) -> bytes | None:
    partition = catalog.partitions.get(number >> 32)
    if partition is None:
        return None
    first = (number & 0xFFFFFFFF) << GENERATIONS_SHIFT
    epochs = range(first, first + (1 << GENERATIONS_SHIFT))
    found = [partition.generations.get(epoch) for epoch in epochs]
    records = [generation.record for generation in found if generation is not None]
    return encode(records) if records else None


def _encode_runs(catalog: Catalog, number: int) -> bytes | None:
    first = number << RUNS_SHIFT
    ids = [run for run in range(first, first + (1 << RUNS_SHIFT)) if run in catalog.runs]
    if not ids:
        return None
    runs = [catalog.runs[run] for run in ids]
    leaves = [leaf for run in runs for leaf in run.leaves]
    sizes = [size for run in runs for size in run.sizes]
    columns = (
        ids,
        [run.entries for run in runs],
        [int(run.holes) for run in runs],
        [len(run.leaves) for run in runs],
    )
    return encode(
        RunRows(
            len(ids),
            len(leaves),
            encode_columns([np.array(column, U64) for column in columns]),
            encode_columns([np.array(leaves, U64), np.array(sizes, U64)]),
        )
    )


def _encode_blocks(catalog: Catalog, number: int) -> bytes | None:
    rows = catalog.blocks.rows
    bounds = np.array([number << BLOCKS_SHIFT, (number + 1) << BLOCKS_SHIFT], np.uint64)
    low, high = np.searchsorted(rows["id"], bounds)
    part = rows[low:high]
    if not len(part):
        return None
    packed = (
        part["mask"].astype(np.uint64)
        + (part["base"].astype(np.uint64) << np.uint64(16))
        + (part["total"].astype(np.uint64) << np.uint64(24))
    )
    columns = [part["id"], part["unit"], packed, part["size"].astype(np.uint64)]
    return encode(BlockRows(len(part), encode_columns(columns)))


def decode_section(catalog: Catalog, ref: SectionRef, data: bytes) -> None:
    """Take a section's contents into the catalog. Raises ValueError on nonsense."""
    if ref.kind is SectionKind.COUNTERS:
        counters = _counters.decode(data)
        catalog.next_block = counters.next_block
        catalog.next_run = counters.next_run
        catalog.deleted_bytes = counters.deleted_bytes
    elif ref.kind is SectionKind.PARTITIONS:
        for row in _partitions.decode(data):
            catalog.partitions[row.oid] = Partition(row.properties, row.last_epoch)
    elif ref.kind is SectionKind.GENERATIONS:
        for record in _generations.decode(data):
            if record.oid not in catalog.partitions or len(record.runs) % 8:
                raise ValueError("a generation of no partition")
            generation = Generation(record, 0)
            catalog.partitions[record.oid].generations[record.epoch] = generation
    elif ref.kind is SectionKind.RUNS:
        _decode_runs(catalog, data)
    elif ref.kind is SectionKind.BLOCKS:
        _decode_blocks(catalog, data)


def _decode_runs(catalog: Catalog, data: bytes) -> None:
    rows = _runs.decode(data)
    if not 0 < rows.run_count <= _MAX_ROWS or not 0 < rows.leaf_count <= _MAX_ROWS:
        raise ValueError("a count of runs out of bounds")
    ids, entries, holes, counts = decode_columns(rows.runs, rows.run_count, 4)
    leaves, sizes = (column.tolist() for column in decode_columns(rows.leaves, rows.leaf_count, 2))
    start = 0
    columns = zip(ids.tolist(), entries.tolist(), holes.tolist(), counts.tolist(), strict=True)
    for run, length, hole, count in columns:
        stop = start + count
        catalog.runs[run] = Run(length, bool(hole), leaves[start:stop], sizes[start:stop])
        start = stop


def _decode_blocks(catalog: Catalog, data: bytes) -> None:
    section = _blocks.decode(data)
    if not 0 < section.count <= _MAX_ROWS:
        raise ValueError("a count of blocks out of bounds")
    ids, units, packed, sizes = decode_columns(section.columns, section.count, 4)
    rows = np.zeros(section.count, ROW)
    rows["id"], rows["unit"], rows["size"] = ids, units, sizes
    rows["mask"] = packed & np.uint64(0xFFFF)
    rows["base"] = packed >> np.uint64(16) & np.uint64(0xFF)
    rows["total"] = packed >> np.uint64(24)
    catalog.blocks.add_rows(rows)


def encode_hashes(ids: np.ndarray, hashes: np.ndarray) -> bytes:
    """A HASHES section."""
    order = np.argsort(ids)
    return encode(HashRows(len(ids), encode_columns([ids[order], hashes[order]])))


def decode_hashes(data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(page ids, hashes) of a HASHES section."""
    section = _hashes.decode(data)
    if not 0 < section.count <= _MAX_ROWS:
        raise ValueError("a count of hashes out of bounds")
    ids, hashes = decode_columns(section.columns, section.count, 2)
    return ids, hashes


class Sections:
    """The sections of the last checkpoint, and how they are written and read."""

    def __init__(self, log: Log):
        self._log = log
        self.refs: dict[SectionKey, SectionRef] = {}
        self.root_chunks: tuple[Chunk, ...] = ()
        self.roots = (0, 0)
        self.root_bytes = 0

    def write(self, changed: dict[SectionKey, bytes | None], segments: Sequence[int]) -> None:
        """Append the changed sections and a new root; nothing refers to them yet."""
        refs = dict(self.refs)
        changed = {**changed, (SectionKind.SEGMENTS, 0): np.array(segments, U64).tobytes()}
        for key, data in changed.items():
            refs.pop(key, None)
            if data is not None:
                refs[key] = SectionRef(*key, self._append_chunks(key, data))
        # What others need comes first: generations after partitions.
        ordered = [refs[key] for key in sorted(refs)]
        root_chunks = self._append_chunks((SectionKind.ROOT, 0), encode(ordered))
        root = Draft(RecordType.ROOT, encode(root_chunks))
        first, second = self._log.append([root, root], emergency=True)
        self.refs, self.root_chunks, self.roots = refs, root_chunks, (first, second)
        self.root_bytes = root.record_bytes

    def _append_chunks(self, key: SectionKey, data: bytes) -> tuple[Chunk, ...]:
        kind, number = key
        starts = range(0, max(len(data), 1), SECTION_BYTES)
        drafts = []
        for place, start in enumerate(starts):
            raw = data[start : start + SECTION_BYTES]
            body, flags = compress(raw)
            context = kind << 48 | place << 24 | len(starts)
            drafts.append(
                Draft(
                    RecordType.SECTION,
                    bytes(body),
                    flags=flags,
                    raw=len(raw),
                    ident=number,
                    context=context,
                )
            )
        firsts = self._log.append(drafts, emergency=True)
        seconds = self._log.append(drafts, emergency=True)
        sizes = [draft.record_bytes for draft in drafts]
        return tuple(map(Chunk, firsts, seconds, sizes))

    def places(self) -> Iterator[tuple[SectionKey, int, int]]:
        """(section, file offset, length) of every record of the checkpoint; root chunks too."""
        chunks = [(key, chunk) for key, ref in self.refs.items() for chunk in ref.chunks]
        chunks += [((SectionKind.ROOT, 0), chunk) for chunk in self.root_chunks]
        for key, chunk in chunks:
            yield key, chunk.first, chunk.size
            yield key, chunk.second, chunk.size
        for offset in self.roots if self.roots[0] else ():
            yield (SectionKind.ROOT, 0), offset, self.root_bytes

    def load(self, roots: tuple[int, int]) -> None:
        """Find the sections of a checkpoint; CorruptObjectError where both copies are wrong."""
        found = None
        for offset in roots:
            found = found or self._log.read_record(offset, 4096)
            if found is not None and found[0].type != RecordType.ROOT:
                found = None
        if found is None:
            raise _damaged("the root of the checkpoint", roots[0])
        try:
            self.root_chunks = _chunks.decode(found[1])
            refs = _refs.decode(self.read((SectionKind.ROOT, 0), self.root_chunks))
        except (ValueError, msgspec.MsgspecError) as error:
            raise _damaged("the root of the checkpoint", roots[0]) from error
        self.roots = roots
        self.root_bytes = padded(HEADER_BYTES + found[0].stored)
        self.refs = {(ref.kind, ref.key): ref for ref in refs}

    def read(self, key: SectionKey, chunks: Sequence[Chunk]) -> bytes:
        """A section's bytes, from whichever copy is right."""
        return b"".join(
            self._read_chunk(key, place, len(chunks), chunk) for place, chunk in enumerate(chunks)
        )

    def _read_chunk(self, key: SectionKey, place: int, total: int, chunk: Chunk) -> bytes:
        for offset in (chunk.first, chunk.second):
            data = self._read_copy(key, place << 24 | total, offset, chunk.size)
            if data is not None:
                return data
        raise _damaged(f"section {key[0].name.lower()} {key[1]} of the checkpoint", chunk.first)

    def _read_copy(self, key: SectionKey, place: int, offset: int, size: int) -> bytes | None:
        if not 0 < size <= MAX_RECORD_BYTES:
            return None
        found = self._log.read_record(offset, size)
        if found is None or not _is_chunk(found[0], key, place):
            return None
        data = decompress(found[1], found[0].flags, found[0].raw)
        return None if data is None else bytes(data)


def _is_chunk(header: Header, key: SectionKey, place: int) -> bool:
    return (
        header.type == RecordType.SECTION
        and header.ident == key[1]
        and header.context == key[0] << 48 | place
    )


def _damaged(what: str, offset: int) -> CorruptObjectError:
    return CorruptObjectError(
        f"{what} at file offset {offset} is damaged; run slsctl fsck --repair", offset=offset
    )


def load_catalog(catalog: Catalog, sections: Sections) -> list[int]:
    """Read every section that opening needs, but for hashes: they wait until the first write.

    Returns the epoch of each segment.
    """
    log_segments: list[int] = []
    for key in sorted(sections.refs):
        ref = sections.refs[key]
        if ref.kind is SectionKind.HASHES:
            continue
        data = sections.read(key, ref.chunks)
        try:
            if ref.kind is SectionKind.SEGMENTS:
                log_segments = np.frombuffer(data, U64).tolist()
            else:
                decode_section(catalog, ref, data)
        except (ValueError, msgspec.MsgspecError, lz4.block.LZ4BlockError) as error:
            raise _damaged(f"section {ref.kind.name.lower()}", ref.chunks[0].first) from error
    return log_segments
