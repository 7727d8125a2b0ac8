"""System V shared memory (shmget(2), shmat(2)): segments with their ids, keys, owners and bytes.

A segment is attached, never mapped: the kernel counts who is. One that outlived its processes gets its old bytes
back; one that is gone is made again under the same id, /proc/sys/kernel/shm_next_id (proc_sys_kernel(5)) choosing it.
A destroyed one (IPC_RMID) is destroyed again once all have attached. One of huge pages (SHM_HUGETLB) has a whole
number of them, whatever was asked for; nothing but its inode tells of what size they are.

Not kept: times of the last calls.
Kernel: Linux 3.9 (shm_next_id).
"""

import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Final, NamedTuple, Self

from sls import proc, syscalls
from sls.errors import ImageError
from sls.proc import VmaLine
from sls.ranges import difference, merged
from sls.remote import Call, Remote, call
from sls.resources import huge_pages
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
    had_none,
    lines_of,
    other_in_place,
    tell_of_users,
)
from sls.stay import NEW_IPC, stay_with
from sls.syscalls import PAGE_BYTES

_NAME: Final = b"/SYSV"
_SHM_RDONLY, _SHM_EXEC = 0o10000, 0o100000
_SHM_HUGETLB: Final = 0o4000
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
    huge_page_bytes: int = 0
    excess_bytes: int = 0  # what its content has beyond what shmget(2) was asked for

    @property
    def asked_bytes(self) -> int:
        """The size that it shows."""
        return self.content.size_bytes - self.excess_bytes

    @property
    def object(self) -> SysvObject:
        """What it has in common with semaphores and message queues."""
        return SysvObject(
            identifier=self.identifier, key=self.key, mode=self.mode, uid=self.uid, gid=self.gid,
            creator_uid=self.creator_uid, creator_gid=self.creator_gid,
        )  # fmt: skip


class SysvMemoryRecord(ProcessRecord, frozen=True, tag="sysv-shm"):
    """Segments that a process has attached, or made without attaching them yet.

    `ipc`: the link of the IPC namespace that they are of; empty for the restorer's. Any other one's stand all in the
    record of its first process.
    """

    segments: tuple[Segment, ...] = ()
    ipc: bytes = b""


class SysvMemory(ProcessState[SysvMemoryRecord]):
    """Segments; attachments are mappings."""

    stage = Stage.LINKS
    record = SysvMemoryRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not any(map(is_segment, process.maps)) and (
            not process.ipc or had_none(process, "shm")
        )

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[SysvMemoryRecord]:
        yield from ()
        with ctx.ipc_of(process) as ipc:
            attached = {line.inode: line for line in process.maps if is_segment(line)}
            _refuse_apart(ctx, process, attached)
            found = _all_segments(ctx, process) if ipc else _segments(ctx, process, attached)
            segments = tuple(found)
        if segments:
            tell_of_users(ctx, process, "shm")
        return SysvMemoryRecord(segments=segments, ipc=ipc)

    def prepare(self, ctx: RestoreContext, record: SysvMemoryRecord) -> None:
        with ctx.in_ipc(record.ipc):
            for segment in record.segments:
                ctx.once(("sysv shm", segment.identifier), partial(_make, ctx, segment))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SysvMemoryRecord
    ) -> Remote[None]:
        yield from ()
        with ctx.in_ipc(record.ipc):
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


def _table(ctx: CaptureContext) -> list[proc.SysvSegment]:
    return ctx.once("sysv segment lines", proc.sysv_segments)


def _refuse_apart(
    ctx: CaptureContext, process: CapturedProcess, attached: dict[int, VmaLine]
) -> None:
    """What is attached must be of the namespace that the process is in: its mapping does not tell of which it is."""
    if not attached:
        return
    known = {one.identifier for one in _table(ctx)}
    is_apart = any(process.ipc_of(tid) != process.ipc for tid in process.frozen.threads)
    for identifier, line in attached.items():
        if is_apart or identifier not in known:
            raise process.unsupported(
                f"memory at {line.start:#x}",
                f"shared memory {identifier} may be of another ipc namespace than that of the process, which is not "
                "supported; detach it, or let all threads stay in one",
            )


def _segments(
    ctx: CaptureContext, process: CapturedProcess, attached: dict[int, VmaLine]
) -> Iterator[Segment]:
    """Those of our own namespace that are the process's."""
    for one in _table(ctx):
        line = attached.get(one.identifier)
        if line is not None:
            yield _described(ctx, one, _link(process, line))
        elif one.creator == process.pid and not one.attached:
            yield _described(ctx, one)


def _all_segments(ctx: CaptureContext, process: CapturedProcess) -> Iterator[Segment]:
    """Those of another namespace, for the first process in it."""
    lines = lines_of(ctx, process, "shm", proc.sysv_segments)
    if not ctx.is_first_sight("sysv shm") or not lines:
        return
    links = {
        line.inode: _link(member, line)
        for member in ctx.processes.values()
        if member.ipc == process.ipc
        for line in member.maps
        if is_segment(line)
    }
    for one in lines:
        link = links.get(one.identifier, "")
        if not one.attached and ctx.once("orphans", _are_orphans_destroyed):
            raise process.unsupported(
                "shared memory",
                f"segment {one.identifier}, which nobody has attached, cannot be made again where shm_rmid_forced is "
                "set; attach it",
            )
        yield _described(ctx, one, link, process.tid)


def _are_orphans_destroyed() -> bool:
    with open("/proc/sys/kernel/shm_rmid_forced", "rb") as file:
        return bool(int(file.read()))


def _link(process: CapturedProcess, line: VmaLine) -> str:
    return f"/proc/{process.tid}/map_files/{line.start:x}-{line.end:x}"


def _described(ctx: CaptureContext, one: proc.SysvSegment, link: str = "", tid: int = 0) -> Segment:
    """`link`: of an attachment, if there is one; `tid`: who is in the namespace, if that is not ours."""
    with nullcontext(link) if link else _Attached(one.identifier) as attached:
        page_bytes = huge_pages.page_bytes_of(attached, os.stat(attached))
    size_bytes = huge_pages.rounded(one.size_bytes, page_bytes or 1)

    def source() -> InodeBytes:
        if link:
            return InodeBytes(link, size_bytes)
        return _UnattachedBytes(one.identifier, size_bytes, tid)

    return Segment(
        identifier=one.identifier,
        key=one.key,
        mode=one.mode & _PERMISSION_BITS,
        uid=one.uid,
        gid=one.gid,
        is_destroyed=bool(one.mode & _SHM_DEST),
        content=ctx.keep(("sysv shm", ctx.ipc, one.identifier), size_bytes, source),
        creator=one.creator,
        creator_uid=one.creator_uid,
        creator_gid=one.creator_gid,
        huge_page_bytes=page_bytes,
        excess_bytes=size_bytes - one.size_bytes,
    )


class _UnattachedBytes(InodeBytes):
    """Those of a segment that no member has attached."""

    def __init__(self, identifier: int, size_bytes: int, tid: int) -> None:
        super().__init__("", size_bytes)
        self._identifier = identifier
        self._tid = tid

    def __enter__(self) -> Self:
        with stay_with(NEW_IPC, self._tid) if self._tid else nullcontext():
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
    """See to it that the segment is there, with its bytes; returns how many it has."""
    size = segment.content.size_bytes
    there = next(
        (one for one in proc.sysv_segments() if one.identifier == segment.identifier), None
    )
    if there is None:
        _create(ctx, segment)
    elif (there.key, there.size_bytes) != (segment.key, segment.asked_bytes):
        raise other_in_place("shm", segment.identifier)
    elif there.attached:
        ctx.note(
            "shared memory", f"segment {segment.identifier} is in use by others: its bytes stay"
        )
        return size
    else:
        _empty(segment)
    _fill(ctx, segment)
    return size


def _create(ctx: RestoreContext, segment: Segment) -> None:
    flags = segment.mode | IPC_CREAT | IPC_EXCL
    if segment.huge_page_bytes:
        flags |= _SHM_HUGETLB | huge_pages.size_flags(segment.huge_page_bytes)
        pages = segment.content.size_bytes // segment.huge_page_bytes
        huge_pages.require_free({segment.huge_page_bytes: pages})
    make = partial(syscalls.syscall, "shmget", segment.key, segment.asked_bytes, flags)
    create(ctx, "shm", segment.object, make, segment.creator)
    data = struct.pack("=iIIIII", 0, segment.uid, segment.gid, 0, 0, segment.mode)
    syscalls.syscall_on("shmctl", segment.identifier, IPC_SET, data.ljust(_SHMID_DS_BYTES, b"\0"))


@contextmanager
def _opened(segment: Segment) -> Iterator[int]:
    """A descriptor of its inode."""
    with _Attached(segment.identifier) as link:
        fd = os.open(link, os.O_RDWR | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _empty(segment: Segment) -> None:
    """Nothing is in it then; huge pages are reserved anew, which attaching it does."""
    with _opened(segment) as fd:
        os.truncate(fd, 0)
        os.truncate(fd, segment.content.size_bytes)
    with _Attached(segment.identifier):
        pass


def _fill(ctx: RestoreContext, segment: Segment) -> None:
    size = segment.content.size_bytes
    object_id = segment.content.object_id
    ranges = ctx.contents.data_ranges(object_id)
    with _opened(segment) as fd:

        def write(offset: int, data: memoryview) -> None:
            os.pwrite(fd, data[: size - offset], offset)

        if segment.huge_page_bytes:
            huge_pages.fill(ctx.contents, object_id, fd, segment.huge_page_bytes, ranges)
        else:
            ctx.contents.copy_to(object_id, ranges, write)


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
