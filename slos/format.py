"""The bytes of the object file: superblock, records, leaves of the index. Encode beside decode.

Pure: bytes in, values out; touches no file. Every number here stands in docs/format.md. All
integers are little-endian; checksums are XXH3-64 with seed 0, those of record headers with the
store's own seed: bytes of another store, kept in this one, never read as its records.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum, IntFlag
from typing import Self

import msgspec
import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64, xxh3_64_intdigest

from slos.codec import BLOCK_BYTES, LZ4, Body, compress, decompress
from slos.errors import StoreFormatError
from slos.store import MAX_NOTE_BYTES, PAGE_BYTES

MAGIC = b"SLOSTORE"
VERSION = 1
SUPERBLOCK_BYTES = 512
SUPERBLOCK_OFFSETS = (0, 4096)
DATA_OFFSET = 8192
UNIT_BYTES = 64
RECORD_MAGIC = b"SLr1"
HEADER_BYTES = 64
BLOCK_PAGES = BLOCK_BYTES // PAGE_BYTES
LEAF_ENTRIES = 2048
ENTRY_BYTES = 24
SECTION_BYTES = 65536
MIN_SEGMENT_BYTES = 128 << 10
MAX_SEGMENT_BYTES = 1 << 30
DEFAULT_SEGMENT_BYTES = 4 << 20
MAX_PAYLOAD_BYTES = MAX_NOTE_BYTES + 16384
MAX_RECORD_BYTES = HEADER_BYTES + MAX_PAYLOAD_BYTES
SIZE_PAGE = (1 << 64) - 1

KNOWN_INCOMPATIBLE = 0
KNOWN_READ_ONLY_COMPATIBLE = 0

SUPERBLOCK = struct.Struct("<8sIIQQ16sQIIIIQQQQQQQ376xQ")
HEADER = struct.Struct("<4sBBHIIQQQQQ")
HEADER_CHECKSUM = struct.Struct("<Q")

U64 = np.dtype("<u8")
Array = NDArray[np.uint64]


class RecordType(IntEnum):
    """What a record of the log is."""

    SEGMENT = 1
    LINK = 2
    PAGES = 3
    MOVED = 4
    LEAF = 5
    COMMIT = 6
    EVENT = 7
    SECTION = 8
    ROOT = 9


class RecordFlag(IntFlag):
    """How a record's payload is to be read."""

    LZ4 = LZ4
    HOLES = 2


class Superblock(msgspec.Struct, frozen=True, kw_only=True):
    """Where the store's state begins; the only bytes that are overwritten in place."""

    uuid: bytes
    segment_bytes: int
    created_ns: int
    version: int = VERSION
    incompatible: int = 0
    read_only_compatible: int = 0
    sequence: int = 1
    mounts: int = 0
    clean: bool = True
    roots: tuple[int, int] = (0, 0)
    log_offset: int = 0
    log_epoch: int = 0
    log_lsn: int = 0
    end_offset: int = 0

    @property
    def seed(self) -> int:
        """Seed of the checksums of record headers."""
        return int.from_bytes(self.uuid[:8], "little")


def encode_superblock(block: Superblock) -> bytes:
    """512 bytes, the last 8 the checksum of what stands before."""
    head = SUPERBLOCK.pack(
        MAGIC,
        block.version,
        SUPERBLOCK_BYTES,
        block.incompatible,
        block.read_only_compatible,
        block.uuid,
        block.sequence,
        block.mounts,
        int(block.clean),
        block.segment_bytes,
        0,
        block.created_ns,
        *block.roots,
        block.log_offset,
        block.log_epoch,
        block.log_lsn,
        block.end_offset,
        0,
    )[:-8]
    return head + HEADER_CHECKSUM.pack(xxh3_64_intdigest(head))


def decode_superblock(data: bytes) -> Superblock:
    """The superblock, or StoreFormatError saying what is wrong with it."""
    if len(data) < SUPERBLOCK_BYTES:
        raise StoreFormatError("shorter than a superblock: this is no store, or a truncated one")
    fields = SUPERBLOCK.unpack_from(data)
    if fields[0] != MAGIC:
        raise StoreFormatError("no superblock magic: this is no store; make one with slsctl mkfs")
    if fields[1] > VERSION:
        raise StoreFormatError(
            f"format version {fields[1]}, but this program reads up to {VERSION}; upgrade it"
        )
    if fields[-1] != xxh3_64_intdigest(data[: SUPERBLOCK_BYTES - 8]):
        raise StoreFormatError("superblock checksum mismatch; run slsctl fsck --repair")
    block = Superblock(
        version=fields[1],
        incompatible=fields[3],
        read_only_compatible=fields[4],
        uuid=fields[5],
        sequence=fields[6],
        mounts=fields[7],
        clean=bool(fields[8]),
        segment_bytes=fields[9],
        created_ns=fields[11],
        roots=(fields[12], fields[13]),
        log_offset=fields[14],
        log_epoch=fields[15],
        log_lsn=fields[16],
        end_offset=fields[17],
    )
    check_superblock(block)
    return block


def check_superblock(block: Superblock) -> None:
    """Bounds, and features that this program does not know."""
    if block.incompatible & ~KNOWN_INCOMPATIBLE:
        raise StoreFormatError(
            f"incompatible features {block.incompatible & ~KNOWN_INCOMPATIBLE:#x} of a newer "
            f"version (this program reads version {VERSION}); upgrade it"
        )
    size = block.segment_bytes
    if not MIN_SEGMENT_BYTES <= size <= MAX_SEGMENT_BYTES or size % PAGE_BYTES:
        raise StoreFormatError(f"segments of {size} bytes; run slsctl fsck")
    if block.log_offset < DATA_OFFSET or block.log_offset % UNIT_BYTES or block.version < 1:
        raise StoreFormatError("superblock fields out of bounds; run slsctl fsck")


class Header(msgspec.Struct, frozen=True):
    """Head of a record. `stored` is the payload's length, `raw` its body's before lz4."""

    type: RecordType
    flags: int
    count: int
    stored: int
    raw: int
    epoch: int
    lsn: int
    ident: int
    context: int
    checksum: int

    @property
    def record_bytes(self) -> int:
        """Length in the log, padding included."""
        return padded(HEADER_BYTES + self.stored)


_TYPES = {int(kind): kind for kind in RecordType}


def padded(length: int) -> int:
    """The length rounded up to whole units."""
    return (length + UNIT_BYTES - 1) & -UNIT_BYTES


def decode_header(data: bytes | memoryview, seed: int) -> Header | None:
    """The header, or None where the bytes are none of this store's or out of bounds."""
    if len(data) < HEADER_BYTES or data[:4] != RECORD_MAGIC:
        return None
    head = bytes(data[:HEADER_BYTES])
    if HEADER_CHECKSUM.unpack_from(head, 56)[0] != xxh3_64_intdigest(head[:56], seed):
        return None
    _, kind, *rest = HEADER.unpack_from(head)
    header = Header(_TYPES.get(kind, RecordType.LINK), *rest)
    known = kind in _TYPES and header.stored <= MAX_PAYLOAD_BYTES
    return header if known and header.raw <= MAX_PAYLOAD_BYTES else None


class Draft:
    """A record before it has its place: header fields and the payload's parts, not copied."""

    __slots__ = (
        "checksum",
        "context",
        "count",
        "flags",
        "ident",
        "parts",
        "raw",
        "record_bytes",
        "stored",
        "type",
    )

    def __init__(
        self,
        kind: RecordType,
        *parts: bytes | memoryview,
        flags: int = 0,
        count: int = 0,
        raw: int = 0,
        ident: int = 0,
        context: int = 0,
    ):
        self.type = kind
        self.flags = flags
        self.count = count
        self.raw = raw
        self.ident = ident
        self.context = context
        self.parts = parts
        checksum, stored = xxh3_64(), 0
        for part in parts:
            checksum.update(part)
            stored += len(part)
        self.checksum = checksum.intdigest()
        self.stored = stored
        # Length in the log, padding included.
        self.record_bytes = (stored + HEADER_BYTES + UNIT_BYTES - 1) & -UNIT_BYTES

    @classmethod
    def copy(cls, header: Header, payload: memoryview) -> Self:
        """A record that is there already, for another place."""
        return cls(
            header.type,
            bytes(payload),
            flags=header.flags,
            count=header.count,
            raw=header.raw,
            ident=header.ident,
            context=header.context,
        )

    def encode_header(self, epoch: int, lsn: int, seed: int) -> bytes:
        """The 64 bytes in front of the payload; `decode_header` reads them."""
        head = HEADER.pack(
            RECORD_MAGIC,
            self.type,
            self.flags,
            self.count,
            self.stored,
            self.raw,
            epoch,
            lsn,
            self.ident,
            self.context,
            self.checksum,
        )
        return head + HEADER_CHECKSUM.pack(xxh3_64_intdigest(head, seed))


def encode_pages(bodies: Sequence[Body], hashes: bytes, first: int) -> list[Draft]:
    """PAGES: a hash for each page, then the pages, as `compress` made them into bodies.

    The blocks are numbered from `first`.
    """
    drafts = []
    step = BLOCK_PAGES * 8
    for place, (body, flags) in enumerate(bodies):
        own = hashes[place * step : (place + 1) * step]
        count = len(own) >> 3
        raw = count * PAGE_BYTES
        drafts.append(
            Draft(
                RecordType.PAGES, own, body, flags=flags, count=count, raw=raw, ident=first + place
            )
        )
    return drafts


def encode_moved(pages: memoryview, hashes: bytes, page_ids: Array) -> Draft:
    """MOVED: hashes, the pages' ids, then the pages."""
    body, flags = compress(pages)
    return Draft(
        RecordType.MOVED,
        hashes,
        page_ids.astype(U64).tobytes(),
        body,
        flags=flags,
        count=len(page_ids),
        raw=len(pages),
    )


def decode_directory(header: Header, payload: memoryview) -> tuple[Array, Array] | None:
    """(page ids, page hashes) of a PAGES or MOVED record; the payload may be cut after them."""
    if not _has_directory(header, payload):
        return None
    count = header.count
    moved = header.type == RecordType.MOVED
    hashes = np.frombuffer(payload, U64, count)
    if moved:
        return np.frombuffer(payload, U64, count, 8 * count), hashes
    first = header.ident * BLOCK_PAGES
    return np.arange(first, first + count, dtype=np.uint64), hashes


def _has_directory(header: Header, payload: memoryview) -> bool:
    return (
        0 < header.count <= BLOCK_PAGES
        and header.raw == header.count * PAGE_BYTES
        and len(payload) >= directory_bytes(header)
        and header.ident < 1 << 59
    )


def directory_bytes(header: Header) -> int:
    """Bytes of a page record's payload in front of the pages."""
    return header.count * (16 if header.type == RecordType.MOVED else 8)


def decode_pages(header: Header, payload: memoryview) -> bytes | memoryview | None:
    """The pages of a PAGES or MOVED record whose checksum was found right."""
    if not _has_directory(header, payload):
        return None
    return decompress(payload[directory_bytes(header) :], header.flags, header.raw)


def encode_columns(columns: list[Array]) -> bytes:
    """Columns of 64-bit numbers: differences, transposed by byte, so that lz4 finds the runs."""
    table = np.concatenate(columns, dtype=U64).reshape(len(columns), -1)
    table[:, 1:] -= table[:, :-1]
    return table.view(np.uint8).reshape(len(columns), -1, 8).transpose(0, 2, 1).tobytes()


def decode_columns(raw: bytes | memoryview, count: int, width: int) -> list[Array]:
    """What `encode_columns` wrote: `width` columns of `count` numbers."""
    table = np.frombuffer(raw, np.uint8).reshape(width, 8, count)
    return [
        np.cumsum(np.ascontiguousarray(part.T).view(U64).reshape(count), dtype=np.uint64)
        for part in table
    ]


def encode_leaf(objects: Array, pages: Array, ids: Array, place: int, of: int) -> Draft:
    """LEAF number `place` of the `of` leaves of a run: (object, page) → page id.

    The run's number is set when it is appended.
    """
    raw = encode_columns([objects, pages, ids])
    body, flags = compress(raw)
    if not ids.all():
        flags |= RecordFlag.HOLES
    return Draft(
        RecordType.LEAF,
        bytes(body),
        flags=flags,
        count=len(ids),
        raw=len(raw),
        context=place << 32 | of,
    )


def decode_leaf(header: Header, payload: memoryview) -> list[Array] | None:
    """[objects, pages, ids] of a LEAF record whose checksum was found right."""
    if header.type != RecordType.LEAF or not 0 < header.count <= LEAF_ENTRIES:
        return None
    if header.raw != header.count * ENTRY_BYTES:
        return None
    raw = decompress(payload, header.flags, header.raw)
    return None if raw is None else decode_columns(raw, header.count, 3)
