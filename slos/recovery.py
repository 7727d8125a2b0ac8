"""Opening a store: the newest checkpoint, then the log behind it, record by record.

After a crash the log ends where the first record is missing or torn. Whether it is a tear or
damage is told by later records: a commit names the last record that was durable when it was
written, and nothing durable is ever missing after a crash. Damage is reported, never cut off,
unless `repair` asks for it.
"""

from collections.abc import Iterator

import msgspec
import numpy as np

from slos.catalog import Catalog, CommitRecord, Event, Run
from slos.dedup import HashIndex
from slos.errors import CorruptObjectError, SlosError, device_error
from slos.format import (
    BLOCK_PAGES,
    DATA_OFFSET,
    HEADER_BYTES,
    RECORD_MAGIC,
    UNIT_BYTES,
    Array,
    Header,
    RecordType,
    Superblock,
    decode_directory,
    decode_header,
    directory_bytes,
)
from slos.log import Log

_PEEK_BYTES = HEADER_BYTES + 16 * BLOCK_PAGES
_PIECE_BYTES = 4096
_VERIFIED = frozenset({RecordType.COMMIT, RecordType.EVENT, RecordType.LEAF, RecordType.MOVED})
_DATA = frozenset({RecordType.PAGES, RecordType.MOVED})
_commit = msgspec.msgpack.Decoder(CommitRecord)
_event = msgspec.msgpack.Decoder(Event)


class Found:
    """A record of the tail and the part of its payload that replay needs."""

    __slots__ = ("header", "offset", "payload")

    def __init__(self, offset: int, header: Header, payload: memoryview):
        self.offset = offset
        self.header = header
        self.payload = payload


class Tail:
    """The log behind the checkpoint: what was found, and where it stopped.

    What the device does not give is an error, for it may have been durable; to `lenient` it is zeros.
    """

    def __init__(self, log: Log, block: Superblock, *, lenient: bool = False):
        self._log = log
        self._lenient = lenient
        self.records: list[Found] = []
        self.position = block.log_offset
        self.epoch = block.log_epoch
        self.lsn = block.log_lsn - 1
        self.durable_lsn = self.lsn

    def walk(self) -> None:
        """Read on until a record is missing."""
        while (found := self._next()) is not None:
            header = found.header
            self.records.append(found)
            self.lsn = header.lsn
            if header.type in (RecordType.COMMIT, RecordType.EVENT):
                self.durable_lsn = max(self.durable_lsn, min(header.context, self.lsn))
            if header.type == RecordType.LINK:
                self.position = self._log.segment_start(header.ident)
                self.epoch = header.context
            else:
                self.position = found.offset + header.record_bytes

    def _next(self) -> Found | None:
        offset = self.position
        data = self._read(offset, _PEEK_BYTES)
        header = decode_header(data[:HEADER_BYTES], self._log.seed)
        if header is None or header.epoch != self.epoch or header.lsn <= self.lsn:
            return None
        if not self._is_placed(header, offset):
            return None
        if header.type not in _VERIFIED:
            payload = memoryview(data)[HEADER_BYTES : HEADER_BYTES + header.stored]
            return Found(offset, header, payload)
        whole = self._whole(offset, header)
        return None if whole is None else Found(offset, *whole)

    def _whole(self, offset: int, header: Header) -> tuple[Header, memoryview] | None:
        read = self._log.read_record if self._lenient else self._log.need_record
        return read(offset, HEADER_BYTES + header.stored)

    def _is_placed(self, header: Header, offset: int) -> bool:
        """Whether a record with this header may stand here."""
        log = self._log
        index = log.segment_of(offset)
        if header.type == RecordType.SEGMENT:
            return offset == log.segment_start(index) and header.ident == index
        if header.type == RecordType.LINK and header.context <= self.epoch:
            return False
        if header.type == RecordType.LINK and header.ident > log.device.size() // UNIT_BYTES:
            return False
        return offset + header.record_bytes <= log.segment_start(index + 1)

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return self._log.device.read(offset, length)
        except OSError as error:
            if not self._lenient:
                raise device_error(error, "reading the store", offset) from error
        end = offset + length
        pieces = range(offset, end, _PIECE_BYTES)
        return b"".join(self._piece(at, min(_PIECE_BYTES, end - at)) for at in pieces)

    def _piece(self, offset: int, length: int) -> bytes:
        try:
            return self._log.device.read(offset, length)
        except OSError:
            return bytes(length)

    def cut_torn(self) -> None:
        """Drop everything from the first data record on that is torn and was never durable."""
        for number, found in enumerate(self.records):
            header = found.header
            if header.type is not RecordType.PAGES or header.lsn <= self.durable_lsn:
                continue
            if self._whole(found.offset, header) is None:
                del self.records[number:]
                self.position = found.offset
                self.epoch = header.epoch
                self.lsn = header.lsn - 1
                return

    def is_damaged(self) -> bool:
        """Whether a later record proves that what is missing here was durable once."""
        return any(
            header.type in (RecordType.COMMIT, RecordType.EVENT) and header.context > self.lsn
            for _, header in self.later()
        )

    def later(self) -> Iterator[tuple[int, Header]]:
        """(offset, header) of records behind the point where the walk stopped."""
        log = self._log
        here = log.segment_of(self.position)
        yield from self._scan(self.position, log.segment_start(here + 1), self.epoch)
        for index in range((log.device.size() - DATA_OFFSET) // log.segment_bytes + 1):
            start = log.segment_start(index)
            head = decode_header(self._read(start, HEADER_BYTES), log.seed)
            if head is not None and head.epoch > self.epoch:
                yield from self._scan(start, log.segment_start(index + 1), head.epoch)

    def _scan(self, start: int, end: int, epoch: int) -> Iterator[tuple[int, Header]]:
        data = self._read(start, end - start)
        data = data[: len(data) // UNIT_BYTES * UNIT_BYTES]
        marks = np.frombuffer(data, "<u4")[:: UNIT_BYTES // 4]
        wanted = int.from_bytes(RECORD_MAGIC, "little")
        for unit in np.flatnonzero(marks == wanted).tolist():
            at = unit * UNIT_BYTES
            header = decode_header(data[at : at + HEADER_BYTES], self._log.seed)
            if header is not None and header.epoch == epoch and header.lsn > self.lsn:
                yield start + at, header

    def resume(self) -> bool:
        """Repair: go on at the next whole record; False where there is none."""
        for offset, header in self.later():
            self.position, self.epoch = offset, header.epoch
            if self._next() is not None:
                return True
        return False


class Replay:
    """Carries the tail's records out on the catalog."""

    def __init__(self, log: Log, catalog: Catalog, hashes: HashIndex, *, lenient: bool):
        self._log = log
        self._catalog = catalog
        self._hashes = hashes
        self._lenient = lenient
        self._leaves: dict[int, list[tuple[Header, int]]] = {}
        self._new_hashes: list[tuple[Array, Array]] = []

    def run(self, records: list[Found]) -> None:
        """Carry out all records; CorruptObjectError where one makes no sense."""
        for found in records:
            try:
                self._apply(found)
            except (ValueError, KeyError, msgspec.MsgspecError, SlosError) as error:
                if not self._lenient:
                    raise CorruptObjectError(
                        f"record {found.header.lsn} at file offset {found.offset} refers to what "
                        f"is not there ({error}); run slsctl fsck --repair",
                        offset=found.offset,
                    ) from error
        if self._new_hashes:
            ids, hashes = (np.concatenate(part) for part in zip(*self._new_hashes, strict=True))
            self._hashes.add(hashes, ids)

    def _apply(self, found: Found) -> None:
        header, catalog = found.header, self._catalog
        match header.type:
            case RecordType.SEGMENT:
                self._segment(header)
            case RecordType.PAGES | RecordType.MOVED:
                self._pages(found)
            case RecordType.LEAF:
                self._leaf(found)
            case RecordType.COMMIT:
                record = _commit.decode(found.payload)
                runs = np.frombuffer(record.runs, "<u8").tolist()
                if any(run not in catalog.runs for run in runs):
                    raise ValueError(f"generation {record.epoch} without its index")
                catalog.commit(record, header.lsn)
            case RecordType.EVENT:
                catalog.apply(_event.decode(found.payload))

    def _segment(self, header: Header) -> None:
        epochs = self._log.epochs
        epochs.extend([0] * (header.ident + 1 - len(epochs)))
        epochs[header.ident] = header.epoch

    def _pages(self, found: Found) -> None:
        header = found.header
        directory = decode_directory(header, found.payload[: directory_bytes(header)])
        if directory is None:
            raise ValueError("pages without a directory")
        ids, hashes = directory
        if header.type == RecordType.MOVED:
            self._catalog.move_pages(ids, found.offset, header.record_bytes)
            return
        self._catalog.add_blocks(
            header.ident, [found.offset], [header.count], [header.record_bytes]
        )
        self._new_hashes.append((ids, hashes))

    def _leaf(self, found: Found) -> None:
        header, offset = found.header, found.offset
        run_id, place, total = header.ident, header.context >> 32, header.context & 0xFFFFFFFF
        known = self._catalog.runs.get(run_id)
        if known is not None and place < len(known.leaves):
            known.leaves[place] = offset
            known.sizes[place] = header.record_bytes
            self._catalog.add_run(run_id, known)
            return
        leaves = self._leaves.setdefault(run_id, [])
        if place != len(leaves):
            raise ValueError(f"leaf {place} of run {run_id} out of order")
        leaves.append((header, offset))
        if len(leaves) == total:
            self._catalog.add_run(run_id, run_of_leaves(leaves))
            del self._leaves[run_id]


def run_of_leaves(leaves: list[tuple[Header, int]]) -> Run:
    """The run that these leaves, (header, offset), make up."""
    return Run(
        sum(header.count for header, _ in leaves),
        any(header.flags & 2 for header, _ in leaves),
        [offset for _, offset in leaves],
        [header.record_bytes for header, _ in leaves],
    )
