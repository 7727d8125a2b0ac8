"""io_uring(7): rings that wait for nothing, with their memory and their counters.

A ring counts what it is asked and what it answers, and the program keeps its own count, so a new one is brought to
the same count by requests for nothing. It is mapped where it was, although the kernel chooses that address by itself.
Programs on libuv (node, uvloop) have a ring that is idle whenever they sleep; databases have one that often is.
Requests under way live in the kernel alone: the checkpoint is tried again for a second, then refused.
Sources: `sls.io_ring`; io_uring_get_unmapped_area() of io_uring/memmap.c.

Refused, too: a polling thread of the kernel, registered files, buffers or an eventfd, a ring for one task alone, larger
entries. Not seen: rings of provided buffers, and flags of io_uring_setup(2) that nothing shows (IORING_SETUP_IOPOLL,
_SUBMIT_ALL, _COOP_TASKRUN).

Not kept: requests under way, polling threads, registered files and buffers: refused; flags that nothing shows.
Kernel: Linux 6.6 (IORING_SETUP_NO_SQARRAY).
"""

import errno
import os
from collections.abc import Iterator, Sequence
from typing import Final, Self

from sls import io_ring, proc
from sls.errors import BusyResourceError, RestoreConflictError
from sls.io_ring import Ring, Shape
from sls.proc import VmaLine
from sls.remote import Call, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    RestoreContext,
)
from sls.resources.nameless import (
    Nameless,
    NamelessKind,
    RingState,
    nameless_descriptor,
    shape_of,
)

TARGETS: Final = (b"anon_inode:[io_uring]", b"anon_inode:[io-uring]")
_MOST_REQUESTS: Final = 1 << 28  # a minute
_ARMED, _OVERFLOWN = "  op=", "  user_data="  # how lines of fdinfo begin
_MAP_FILL: Final = 0x104022  # MAP_PRIVATE, MAP_ANONYMOUS, MAP_NORESERVE, MAP_FIXED_NOREPLACE
_USER_END: Final = 0x7FFFFFFFF000  # of addresses that mmap(2) chooses
Range = tuple[int, int]


class IoUringRecord(FileRecord, frozen=True, tag="io_uring"):
    """One ring."""

    inode: Nameless


class IoUring(FileType[IoUringRecord]):
    """Rings."""

    record = IoUringRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target in TARGETS

    def capture(self, ctx: CaptureContext, file: OpenFile) -> IoUringRecord:
        return IoUringRecord(file_id=file.file_id, flags=file.flags, inode=_captured(ctx, file))

    def restore(self, ctx: RestoreContext, record: IoUringRecord) -> int:
        return os.dup(nameless_descriptor(ctx, record.inode, os.O_RDWR))


# --- capture --------------------------------------------------------------------------------------------------------


def ring_behind(ctx: CaptureContext, line: VmaLine) -> Nameless | None:
    """The ring that a mapping is of; None of other mappings, and where no member has it open any more."""
    if line.name not in TARGETS:
        return None
    for file in ctx.files.values():
        if file.target in TARGETS and file.stat.st_ino == line.inode:
            return _captured(ctx, file)
    return None


def _captured(ctx: CaptureContext, file: OpenFile) -> Nameless:
    return ctx.once(("ring", file.stat.st_ino), lambda: _capture(ctx, file))


def _capture(ctx: CaptureContext, file: OpenFile) -> Nameless:
    state = _state(ctx, file)
    source = _RingBytes(file.descriptor, shape_of(state))
    size = io_ring.ENTRIES_OFFSET + source.shape.entries_bytes
    content = ctx.keep(("ring", file.stat.st_ino), size, lambda: source)
    return Nameless(kind=NamelessKind.RING, content=content, ring=state)


def _state(ctx: CaptureContext, file: OpenFile) -> RingState:
    info = file.info
    if "SqMask" not in info or _is_busy(file):
        raise BusyResourceError(
            file.pid, f"fd {file.fd}", f"io_uring: requests are under way; {_ADVICE}"
        )
    for lack, is_so in (
        ("a polling thread of the kernel", info["SqThread"] != "-1"),
        ("registered files", info["UserFiles"] != "0"),
        ("registered buffers", info["UserBufs"] != "0"),
        ("a ring for one task alone", io_ring.is_of_one_task(file.descriptor)),
        ("a registered eventfd", io_ring.tells_eventfd(file.descriptor)),
        ("more requests than can be repeated", int(info["CachedSqHead"]) > _MOST_REQUESTS),
    ):
        if is_so:
            raise file.unsupported(f"io_uring: {lack} is not supported; {_ADVICE}")
    shapes = _possible_shapes(ctx, file)
    return RingState(
        submissions=shapes[0].submissions,
        completions=shapes[0].completions,
        has_indices=shapes[0].has_indices if len(shapes) == 1 else _looks_indexed(file, shapes[0]),
        requests=int(info["CachedSqHead"]),
    )


_ADVICE: Final = (
    "start the program without it (libuv: UV_USE_IO_URING=0; MariaDB: --innodb-use-native-aio=0), "
    "or close it before the checkpoint"
)


def _is_busy(file: OpenFile) -> bool:
    """Whether a request waits in the ring, or has been taken and is yet without an answer.

    Each has one answer, but for those that are armed once and answer often: the list of polls has them.
    """
    info = file.info
    counts = {info[name] for name in ("SqTail", "CachedSqHead", "CachedCqTail", "CqTail")}
    return len(counts) > 1 or bool(info.lines(_ARMED) + info.lines(_OVERFLOWN))


def _possible_shapes(ctx: CaptureContext, file: OpenFile) -> list[Shape]:
    """How the ring was made, by the lengths of its mappings: with indices, or without, or either."""
    submissions, completions = (int(file.info[name], 16) + 1 for name in ("SqMask", "CqMask"))
    lengths = _mapped_lengths(ctx, file)
    if not lengths.keys() & {io_ring.QUEUES_OFFSET, io_ring.COMPLETIONS_OFFSET}:
        raise file.unsupported(f"io_uring: a ring that is not mapped is not supported; {_ADVICE}")
    forms = [Shape(submissions, completions, has_indices=one) for one in (True, False)]
    possible = [one for one in forms if one.agrees_with(lengths)]
    if not possible:
        raise file.unsupported(f"io_uring: entries of another size are not supported; {_ADVICE}")
    return possible


def _mapped_lengths(ctx: CaptureContext, file: OpenFile) -> dict[int, int]:
    """Offset of each mapping that a member has of the ring → its length in bytes."""
    return {
        line.offset: line.length
        for process in ctx.processes.values()
        for line in process.maps
        if line.name in TARGETS and line.inode == file.stat.st_ino
    }


def _looks_indexed(file: OpenFile, shape: Shape) -> bool | None:
    with Ring(file.descriptor, shape) as ring:
        return ring.has_indices()


class _RingBytes:
    """A `MemorySource`: both pieces of a ring's memory at their offsets."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._ring = Ring(fd, shape)
        self.shape = shape
        self.read_into = self._ring.read_into

    def __enter__(self) -> Self:
        self._ring.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._ring.__exit__()

    def data_ranges(self) -> Iterator[Range]:
        yield io_ring.QUEUES_OFFSET, io_ring.QUEUES_OFFSET + self.shape.queues_bytes
        yield io_ring.ENTRIES_OFFSET, io_ring.ENTRIES_OFFSET + self.shape.entries_bytes


# --- restore --------------------------------------------------------------------------------------------------------


def map_at(places: Sequence[tuple[Range, Call]], taken: Sequence[Range]) -> Remote[None]:
    """Map rings where they were: for each its place, and the call of mmap(2), without an address.

    The kernel takes no address for them, so everything else is taken first (`taken` is already), and one place is
    given free at a time. RestoreConflictError (ENOMEM) where it still chooses another.
    """
    wanted = [place for place, _ in places]
    fills = list(_gaps(sorted([*taken, *wanted])))
    yield from remote_all(
        [call("mmap", start, end - start, 0, _MAP_FILL, -1, 0) for start, end in [*fills, *wanted]]
    )
    calls = [one for place, mapping in places for one in (_unmap(place), mapping)]
    replies = yield calls
    yield from remote_all([_unmap(fill) for fill in fills])
    for (start, _), reply in zip(wanted, replies[1::2], strict=True):
        if reply.value != start:
            raise RestoreConflictError(
                f"a ring of io_uring cannot be mapped at {start:#x} again: {reply.value:#x}",
                errno.ENOMEM,
            )


def _unmap(place: Range) -> Call:
    return call("munmap", place[0], place[1] - place[0])


def _gaps(taken: Sequence[Range]) -> Iterator[Range]:
    position = proc.lowest_address()
    for start, end in [*taken, (_USER_END, _USER_END)]:
        if position < min(start, _USER_END):
            yield position, min(start, _USER_END)
        position = max(position, end)
