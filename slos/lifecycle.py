"""Making, opening, checkpointing and closing a store's file.

Everything that writes a superblock is here. The order that keeps a store whole: what a checkpoint
refers to is durable before the first superblock copy names it, the first copy before the second
is touched, and space is given back only after both.
"""

import os
import time

import msgspec

from slos.catalog import SectionKey, SectionKind
from slos.checkpoint import Counters, encode, encode_hashes, encode_section, load_catalog
from slos.core import Core
from slos.device import Device, FileDevice, create_file, lock_holder
from slos.errors import (
    CorruptObjectError,
    InvalidRequestError,
    ObjectExistsError,
    SlosError,
    StoreBusyError,
    StoreFormatError,
    device_error,
)
from slos.format import (
    DATA_OFFSET,
    DEFAULT_SEGMENT_BYTES,
    HEADER_BYTES,
    KNOWN_READ_ONLY_COMPATIBLE,
    MAX_SEGMENT_BYTES,
    MIN_SEGMENT_BYTES,
    SUPERBLOCK_BYTES,
    SUPERBLOCK_OFFSETS,
    Draft,
    RecordType,
    Superblock,
    decode_superblock,
    encode_superblock,
)
from slos.recovery import Replay, Tail
from slos.store import PAGE_BYTES

CHECKPOINT_RECORDS = 16384
# Written by every checkpoint, or from elsewhere than the catalog.
_OTHERWISE = frozenset(
    {SectionKind.ROOT, SectionKind.COUNTERS, SectionKind.SEGMENTS, SectionKind.HASHES}
)


def make_store(
    path: str | os.PathLike[str],
    *,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    uuid: bytes | None = None,
    created_ns: int | None = None,
) -> None:
    """Make an empty store. ObjectExistsError where there is a file already."""
    if not MIN_SEGMENT_BYTES <= segment_bytes <= MAX_SEGMENT_BYTES or segment_bytes % PAGE_BYTES:
        raise InvalidRequestError(
            f"segments of {segment_bytes} bytes: use a multiple of {PAGE_BYTES} from "
            f"{MIN_SEGMENT_BYTES} to {MAX_SEGMENT_BYTES}"
        )
    epoch = 1
    block = Superblock(
        uuid=uuid if uuid is not None else os.urandom(16),
        segment_bytes=segment_bytes,
        created_ns=time.time_ns() if created_ns is None else created_ns,
        log_offset=DATA_OFFSET + HEADER_BYTES,
        log_epoch=epoch,
        log_lsn=2,
        end_offset=DATA_OFFSET + HEADER_BYTES,
    )
    head = Draft(RecordType.SEGMENT).encode_header(epoch, 1, block.seed)
    copies = [(offset, encode_superblock(block)) for offset in SUPERBLOCK_OFFSETS]
    try:
        create_file(path, [*copies, (DATA_OFFSET, head)])
    except FileExistsError as error:
        raise ObjectExistsError(
            f"{os.fspath(path)} exists; a store is never made over a file: remove it first"
        ) from error
    except OSError as error:
        raise device_error(error, f"making {os.fspath(path)}") from error


def open_device(path: str | os.PathLike[str], *, read_only: bool) -> FileDevice:
    """The store's file under its lock; StoreBusyError names the holder."""
    try:
        return FileDevice(path, read_only=read_only)
    except BlockingIOError as error:
        pid = lock_holder(path)
        holder = f"process {pid}" if pid else "another process"
        raise StoreBusyError(
            f"{os.fspath(path)} is held by {holder}; unmount that first", holder_pid=pid
        ) from error
    except OSError as error:
        failure = device_error(error, f"opening {os.fspath(path)}")
        raise failure from error


def read_copy(device: Device, offset: int) -> Superblock:
    """One copy of the superblock; StoreFormatError or StoreDeviceError where there is none."""
    try:
        return decode_superblock(device.read(offset, SUPERBLOCK_BYTES))
    except OSError as error:
        raise device_error(error, "reading the superblock", offset) from error


def read_superblock(device: Device) -> Superblock:
    """The newest whole copy; StoreFormatError or StoreDeviceError where there is none."""
    found: list[Superblock] = []
    failure: SlosError | None = None
    for offset in SUPERBLOCK_OFFSETS:
        try:
            found.append(read_copy(device, offset))
        except SlosError as error:
            failure = failure or error
    if not found:
        assert failure is not None
        raise failure
    return max(found, key=lambda block: block.sequence)


def load(device: Device, *, read_only: bool, repair: bool = False) -> Core:
    """An open store out of its file; a torn tail is cut off, damage is reported.

    With `repair` the log is read past what is damaged, and what refers to it is left out.
    """
    block = read_superblock(device)
    if block.read_only_compatible & ~KNOWN_READ_ONLY_COMPATIBLE and not read_only:
        raise StoreFormatError(
            f"features {block.read_only_compatible:#x} of a newer version: this store can be "
            "opened read-only, or upgrade this program"
        )
    core = Core(device, block, read_only=read_only)
    if block.roots[0]:
        core.sections.load(block.roots)
        core.log.epochs = load_catalog(core.catalog, core.sections)
    _replay(core, repair=repair)
    log = core.log
    log.free = {index for index, epoch in enumerate(log.epochs) if epoch == 0}
    if not read_only:
        take_over(core)
    log.durable_lsn = log.written_lsn
    return core


def _replay(core: Core, *, repair: bool) -> None:
    """Bring the catalog from the checkpoint up to the log's end."""
    log, block = core.log, core.block
    index = log.segment_of(block.log_offset)
    if index > (core.device.size() - DATA_OFFSET) // block.segment_bytes:
        raise StoreFormatError("the store is truncated: its log is missing; run slsctl fsck")
    log.epochs.extend([0] * (index + 1 - len(log.epochs)))
    log.epochs[index] = block.log_epoch
    tail = Tail(log, block, lenient=repair)
    tail.walk()
    while repair and tail.is_damaged() and tail.resume():
        tail.walk()
    if not block.clean:
        tail.cut_torn()
    damaged = tail.position != block.end_offset if block.clean else tail.is_damaged()
    if damaged and not repair:
        raise CorruptObjectError(
            f"the log is damaged at file offset {tail.position}: what stood there was durable; "
            "run slsctl fsck --repair",
            offset=tail.position,
        )
    Replay(log, core.catalog, core.hashes, lenient=repair).run(tail.records)
    log.position, log.epoch = tail.position, tail.epoch
    log.lsn = tail.lsn + 1
    log.written_lsn = tail.lsn
    log.records = len(tail.records)


def take_over(core: Core, *, afresh: bool = False) -> None:
    """Mark the store as mounted. After a crash make what was found durable first.

    `afresh` continues in a new segment as after a crash.
    """
    block, log = core.block, core.log
    crashed = afresh or not block.clean
    core.read_only = False
    core.block = msgspec.structs.replace(block, mounts=block.mounts + 1, clean=False)
    log.set_mount(core.block.mounts)
    try:
        core.device.sync()
        write_superblock(core)
    except OSError as error:
        raise device_error(error, "opening the store for writing") from error
    if crashed:
        log.begin_fresh()
        for index in sorted(log.free):
            log.punch(index)
        checkpoint(core)
    log.keep_spare()


def write_superblock(core: Core) -> None:
    """Replace both copies, one after the other. Raises OSError."""
    core.block = msgspec.structs.replace(core.block, sequence=core.block.sequence + 1)
    data = encode_superblock(core.block)
    for offset in SUPERBLOCK_OFFSETS:
        core.device.write(offset, [data])
        core.device.sync()


def checkpoint(core: Core, *, clean: bool = False, freed: frozenset[int] = frozenset()) -> None:
    """Write the catalog's changes and let the superblock name them.

    `freed` are segments that nothing needs any more after this: the caller gives them back, when
    both superblock copies are durable.
    """
    log = core.log
    with core.append_lock:
        core.check_writable()
        with core.lock:
            changed = _changed_sections(core)
            core.catalog.dirty.clear()
        start = (log.position, log.epoch, log.lsn)
        try:
            segments = [0 if i in freed else epoch for i, epoch in enumerate(log.epochs)]
            core.sections.write(changed, segments)
        except BaseException:
            with core.lock:
                core.catalog.dirty.update(changed)
            raise
        log.wait_durable(log.written_lsn)
        log.records = 0
        core.block = msgspec.structs.replace(
            core.block,
            roots=core.sections.roots,
            log_offset=start[0],
            log_epoch=start[1],
            log_lsn=start[2],
            clean=clean,
            end_offset=log.position,
        )
        _name_checkpoint(core)


def _name_checkpoint(core: Core) -> None:
    try:
        write_superblock(core)
    except OSError as error:
        # Which of the two checkpoints the file names is not known any more.
        failure = device_error(error, "writing the superblock")
        core.log.failure = core.log.failure or failure
        raise failure from error


def _changed_sections(core: Core) -> dict[SectionKey, bytes | None]:
    catalog = core.catalog
    changed: dict[SectionKey, bytes | None] = {
        key: encode_section(catalog, key)
        for key in sorted(catalog.dirty)
        if key[0] not in _OTHERWISE
    }
    counters = Counters(catalog.next_block, catalog.next_run, catalog.deleted_bytes)
    changed[SectionKind.COUNTERS, 0] = encode(counters)
    loose, joined = core.hashes.unkept()
    if loose:
        joined = joined if core.hashes_loaded else []
        changed.update({(SectionKind.HASHES, level.key or 0): None for level in joined})
        level = core.hashes.keep(loose + joined)
        assert level.key is not None
        changed[SectionKind.HASHES, level.key] = encode_hashes(level.ids, level.hashes)
    for key in catalog.dirty:
        if key[0] is SectionKind.HASHES and key not in changed:
            changed[key] = _kept_hashes(core, key)
    return changed


def _kept_hashes(core: Core, key: SectionKey) -> bytes | None:
    """A section of hashes that must move to another place."""
    for level in core.hashes.levels:
        if level.key == key[1]:
            return encode_hashes(level.ids, level.hashes)
    return None


def rewrite(core: Core) -> None:
    """Write every section anew and leave a clean store; the device stays open."""
    with core.append_lock:
        core.catalog.dirty.update(key for key in core.sections.refs if key[0] not in _OTHERWISE)
        for level in core.hashes.levels:
            level.key = None
        gone = [key for key in core.sections.refs if key[0] is SectionKind.HASHES]
        core.catalog.dirty.update(gone)
        _close_clean(core)


def close(core: Core) -> None:
    """Write a last checkpoint and say that the store is clean; always lets the file go."""
    try:
        if not core.read_only and core.log.failure is None:
            with core.append_lock:
                _close_clean(core)
    finally:
        core.close()


def _close_clean(core: Core) -> None:
    if core.log.records or core.catalog.dirty:
        checkpoint(core, clean=True)
    else:
        core.block = msgspec.structs.replace(core.block, clean=True, end_offset=core.log.position)
        _name_checkpoint(core)
    core.log.spare = None
    core.log.trim()
    try:
        core.device.sync()
    except OSError as error:
        raise device_error(error, "closing the store") from error
