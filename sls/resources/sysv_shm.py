"""System V shared memory (shmget(2), shmat(2)): segments with their ids, keys, owners and bytes.

A segment is attached, never mapped: the kernel counts who is. One that outlived its processes gets its old bytes
back; one that is gone is made again under the same id, /proc/sys/kernel/shm_next_id (proc_sys_kernel(5)) choosing it.
A destroyed one (IPC_RMID) is destroyed again once all have attached.

Not kept: times of the last calls.
Kernel: Linux 3.9 (shm_next_id).
"""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Final, NamedTuple, Self

from sls import proc, syscalls
from sls.errors import ImageError
from sls.proc import VmaLine
from sls.ranges import difference, merged
from sls.remote import Call, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Content,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.resources.nameless import InodeBytes
from sls.resources.sysv import (
    IPC_CREAT,
    IPC_EXCL,
    IPC_RMID,
    IPC_SET,
    SysvObject,
    create,
    other_in_place,
)
from sls.syscalls import PAGE_BYTES

_NAME: Final = b"/SYSV"
_SHM_RDONLY, _SHM_EXEC = 0o10000, 0o100000
_SHM_DEST: Final = 0o1000  # in the mode that /proc/sysvipc/shm shows
_PERMISSION_BITS: Final = 0o777
_SHMID_DS_BYTES: Final = 112  # struct shmid64_ds of x86-64


class Segment(Record, frozen=True):
    """One segment. A destroyed one has lost its key. `creator`: the pid that made it."""

    identifier: int
    key: int
    mode: int
    uid: int
    gid: int
    is_destroyed: bool
    content: Content
    creator: int = 0
    creator_uid: int = 0
    creator_gid: int = 0

    @property
    def object(self) -> SysvObject:
        """What it has in common with semaphores and message queues."""
        return SysvObject(
            identifier=self.identifier, key=self.key, mode=self.mode, uid=self.uid, gid=self.gid,
            creator_uid=self.creator_uid, creator_gid=self.creator_gid,
        )  # fmt: skip


class SysvMemoryRecord(ProcessRecord, frozen=True, tag="sysv-shm"):
    """Segments that a process has attached, or made without attaching them yet."""

    segments: tuple[Segment, ...] = ()


class SysvMemory(ProcessState[SysvMemoryRecord]):
    """Segments; attachments are mappings."""

    stage = Stage.LINKS
    record = SysvMemoryRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not any(map(is_segment, process.maps))

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[SysvMemoryRecord]:
        yield from ()
        attached = {line.inode: line for line in process.maps if is_segment(line)}
        return SysvMemoryRecord(segments=tuple(_segments(ctx, process, attached)))

    def prepare(self, ctx: RestoreContext, record: SysvMemoryRecord) -> None:
        for segment in record.segments:
            ctx.once(("sysv shm", segment.identifier), partial(_make, ctx, segment))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SysvMemoryRecord
    ) -> Remote[None]:
        yield from ()
        for segment in record.segments:
            if segment.is_destroyed:
                destroy = partial(syscalls.syscall, "shmctl", segment.identifier, IPC_RMID, 0)
                ctx.once(("sysv shm destroyed", segment.identifier), destroy)


def is_segment(line: VmaLine) -> bool:
    """Whether a mapping is an attachment; its inode number is the segment's id (ipc/shm.c)."""
    return line.name.startswith(_NAME) and line.is_shared and line.major == 0


class Part(NamedTuple):
    """One mapping of an attachment: mprotect(2) and munmap(2) may have left several of it."""

    start: int
    end: int
    offset: int
    protection: int
    may_write: bool
    identifier: int


# --- capture --------------------------------------------------------------------------------------------------------


def _segments(
    ctx: CaptureContext, process: CapturedProcess, attached: dict[int, VmaLine]
) -> Iterator[Segment]:
    for one in ctx.once("sysv segment lines", proc.sysv_segments):
        line = attached.get(one.identifier)
        if line is not None:
            link = f"/proc/{process.tid}/map_files/{line.start:x}-{line.end:x}"
        elif one.creator == process.pid and not one.attached:
            link = ""
        else:
            continue
        yield Segment(
            identifier=one.identifier,
            key=one.key,
            mode=one.mode & _PERMISSION_BITS,
            uid=one.uid,
            gid=one.gid,
            is_destroyed=bool(one.mode & _SHM_DEST),
            content=_keep(ctx, one.identifier, one.size_bytes, link),
            creator=one.creator,
            creator_uid=one.creator_uid,
            creator_gid=one.creator_gid,
        )


def _keep(ctx: CaptureContext, identifier: int, size: int, link: str) -> Content:
    def source() -> InodeBytes:
        return InodeBytes(link, size) if link else _UnattachedBytes(identifier, size)

    return ctx.keep(("sysv shm", identifier), size, source)


class _UnattachedBytes(InodeBytes):
    """Those of a segment that no member has attached."""

    def __init__(self, identifier: int, size_bytes: int) -> None:
        super().__init__("", size_bytes)
        self._identifier = identifier

    def __enter__(self) -> Self:
        with _Attached(self._identifier) as self._link:
            return super().__enter__()


class _Attached:
    """A segment attached to this process for a moment; gives its link in /proc."""

    def __init__(self, identifier: int) -> None:
        self._identifier = identifier

    def __enter__(self) -> str:
        self._address = syscalls.syscall("shmat", self._identifier, 0, 0)
        maps = proc.parse_maps(proc.read(os.getpid(), "maps"))
        vma = next(vma for vma in maps if vma.start == self._address)
        return f"/proc/self/map_files/{vma.start:x}-{vma.end:x}"

    def __exit__(self, *_: object) -> None:
        syscalls.syscall("shmdt", self._address)


# --- restore --------------------------------------------------------------------------------------------------------


def _make(ctx: RestoreContext, segment: Segment) -> int:
    """See to it that the segment is there, with its bytes; returns its size."""
    size = segment.content.size_bytes
    there = next(
        (one for one in proc.sysv_segments() if one.identifier == segment.identifier), None
    )
    if there is None:
        _create(ctx, segment)
    elif (there.key, there.size_bytes) != (segment.key, size):
        raise other_in_place("shm", segment.identifier)
    elif there.attached:
        ctx.note(
            "shared memory", f"segment {segment.identifier} is in use by others: its bytes stay"
        )
        return size
    _fill(ctx, segment)
    return size


def _create(ctx: RestoreContext, segment: Segment) -> None:
    flags = segment.mode | IPC_CREAT | IPC_EXCL
    make = partial(syscalls.syscall, "shmget", segment.key, segment.content.size_bytes, flags)
    create(ctx, "shm", segment.object, make, segment.creator)
    data = struct.pack("=iIIIII", 0, segment.uid, segment.gid, 0, 0, segment.mode)
    syscalls.syscall_on("shmctl", segment.identifier, IPC_SET, data.ljust(_SHMID_DS_BYTES, b"\0"))


def _fill(ctx: RestoreContext, segment: Segment) -> None:
    size = segment.content.size_bytes
    object_id = segment.content.object_id
    with _Attached(segment.identifier) as link:
        fd = os.open(link, os.O_RDWR | os.O_CLOEXEC)
    try:
        os.truncate(fd, 0)
        os.truncate(fd, size)

        def write(offset: int, data: memoryview) -> None:
            os.pwrite(fd, data[: size - offset], offset)

        ctx.contents.copy_to(object_id, ctx.contents.data_ranges(object_id), write)
    finally:
        os.close(fd)


def attach(ctx: RestoreContext, parts: Sequence[Part]) -> Iterator[Call]:
    """Calls that attach what `parts` are of, at their addresses. Before other mappings: they may lie in its gaps."""
    groups: dict[int, list[Part]] = {}
    for part in parts:
        groups.setdefault(part.start - part.offset, []).append(part)
    for address, group in groups.items():
        size: int = ctx.once(("sysv shm", group[0].identifier), _never_made)
        flags = 0 if any(part.may_write for part in group) else _SHM_RDONLY
        if any(part.protection & mmap.PROT_EXEC for part in group):
            flags |= _SHM_EXEC
        yield call("shmat", group[0].identifier, address, flags)
        end = (address + size + PAGE_BYTES - 1) & -PAGE_BYTES
        covered = merged((part.start, part.end) for part in group)
        for start, stop in difference([(address, end)], covered):
            yield call("munmap", start, stop - start)
        for part in group:
            yield call("mprotect", part.start, part.end - part.start, part.protection)


def _never_made() -> int:
    raise ImageError("an attached segment has no record; choose another generation")
