"""Address spaces: VMAs, what is mapped in them, brk, and the layout that prctl(PR_SET_MM) describes.

Contents of private pages are not in the record: `sls.pages` copies them by address. Shared anonymous memory and deleted
files are kept as contents of the generation; files that have a name are mapped again by it, and must not have changed.
Sources: proc(5), prctl(2) PR_SET_MM_MAP, Documentation/filesystems/proc.rst (VmFlags).
"""

import enum
import errno
import mmap
import os
import struct
from collections.abc import Iterator
from typing import Final

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.proc import VmaLine
from sls.remote import Call, In, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Content,
    Memo,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.syscalls import PAGE_BYTES


class VmaKind(enum.Enum):
    """What backs a mapping."""

    ANONYMOUS = "anonymous"
    FILE = "file"
    SHARED = "shared"  # shared memory without a name: its bytes are contents of the generation
    KERNEL = "kernel"  # vdso and vvar


class FileVersion(Record, frozen=True):
    """A file by name, and what tells that it is still the same."""

    path: bytes
    size_bytes: int
    mtime_ns: int


class VmaRecord(Record, frozen=True):
    """One mapping. `protection`: PROT_ bits; `advice`: VmFlags codes that are set again; `may_write`: VM_MAYWRITE."""

    start: int
    end: int
    protection: int
    is_shared: bool
    kind: VmaKind
    offset: int = 0
    name: bytes = b""
    file: FileVersion | None = None
    content: Content | None = None
    may_write: bool = True
    advice: tuple[str, ...] = ()

    @property
    def length(self) -> int:
        return self.end - self.start


class MemoryRecord(ProcessRecord, frozen=True, tag="memory"):
    """One address space. `layout`: the first eleven words of struct prctl_mm_map, in its order."""

    vmas: tuple[VmaRecord, ...]
    layout: tuple[int, ...]
    auxv: bytes
    executable: FileVersion
    object_id: int
    lock_flags: int = 0


_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_PR_SET_VMA, _PR_SET_VMA_ANON_NAME = 0x53564D41, 0
_MAP_GROWSDOWN, _MAP_NORESERVE, _MAP_STACK = 0x100, 0x4000, 0x20000
_MREMAP_MOVE_FIXED: Final = 3
KERNEL_NAMES: Final = (b"[vdso]", b"[vvar]", b"[vvar_vclock]")
# VmFlags code → madvise(2) advice
_ADVICE: Final = {"rr": 1, "sr": 2, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
_REFUSED: Final = {
    "io": "a mapping of device memory",
    "pf": "a mapping of device memory",
    "ht": "huge pages of hugetlbfs",
    "ss": "a shadow stack",
    "uw": "a mapping that another userfaultfd watches",
    "um": "a mapping that another userfaultfd watches",
}
_KEPT_FLAGS: Final = frozenset(_ADVICE) | {"gd", "nr", "lo"}


class Memory(ProcessState[MemoryRecord]):
    """Address spaces."""

    stage = Stage.MEMORY
    record = MemoryRecord

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[MemoryRecord]:
        replies = yield [call("brk", 0)]
        flags = _flags(process.tid, process.maps_text, process.memo)
        stat = process.stat
        return MemoryRecord(
            vmas=_vmas(ctx, process, flags),
            layout=(
                stat.start_code, stat.end_code, stat.start_data, stat.end_data, stat.start_brk,
                replies[0].check(), stat.start_stack, stat.arg_start, stat.arg_end, stat.env_start,
                stat.env_end,
            ),
            auxv=proc.read(process.tid, "auxv"),
            executable=_version(ctx, process, proc.link(process.tid, "exe"), f"/proc/{process.tid}/exe"),
            object_id=process.object_id,
        )  # fmt: skip

    def look_ahead(self, tid: int, memo: Memo) -> None:
        _flags(tid, proc.read(tid, "maps"), memo)

    def prepare(self, ctx: RestoreContext, record: MemoryRecord) -> None:
        open_version(ctx, record.executable, os.O_RDONLY)
        for vma in record.vmas:
            _descriptor(ctx, vma)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: MemoryRecord
    ) -> Remote[None]:
        calls = list(_clear(process, record))
        calls += [_map(ctx, vma) for vma in record.vmas if vma.kind is not VmaKind.KERNEL]
        calls += [one for vma in record.vmas for one in _advise(vma)]
        must_succeed = len(calls)
        calls += [_name(vma) for vma in record.vmas if vma.name.startswith(b"[anon:")]
        replies = yield calls
        for vma_reply in replies[:must_succeed]:
            vma_reply.check()
        process.fill(
            record.object_id,
            [(vma.start, vma.end) for vma in record.vmas if vma.protection & mmap.PROT_WRITE],
        )
        executable = open_version(ctx, record.executable, os.O_RDONLY)
        auxv = In(record.auxv)
        layout = struct.pack("=11QQII", *record.layout, 0, len(record.auxv), executable)
        (reply,) = yield [
            call("prctl", _PR_SET_MM, _PR_SET_MM_MAP, In(layout, ((88, auxv),)), len(layout), 0)
        ]
        reply.check()


# --- capture --------------------------------------------------------------------------------------------------------


def _flags(tid: int, maps_text: bytes, memo: Memo) -> dict[int, frozenset[str]]:
    """VmFlags by start address. The kernel walks every page for smaps, so it is read again only with new maps.

    Advice given since, to a whole mapping that stays as it was, is seen at the next full capture.
    """
    return memo.of("smaps", maps_text, lambda: proc.parse_smaps_flags(proc.read(tid, "smaps")))


def _vmas(
    ctx: CaptureContext, process: CapturedProcess, flags: dict[int, frozenset[str]]
) -> tuple[VmaRecord, ...]:
    """One record a mapping; those without contents to keep are made again only with new maps."""
    known: dict[VmaLine, VmaRecord] = process.memo.of("vmas", process.maps_text, dict)
    records = []
    for line in process.maps:
        record = known.get(line)
        if record is None:
            if line.name == b"[vsyscall]" or process.is_arena(line):
                continue
            record = _vma(ctx, process, line, flags.get(line.start, frozenset()))
            if record.content is None:
                known[line] = record
        records.append(record)
    return tuple(records)


def _vma(
    ctx: CaptureContext, process: CapturedProcess, line: VmaLine, flags: frozenset[str]
) -> VmaRecord:
    for code, reason in _REFUSED.items():
        if code in flags and line.name not in KERNEL_NAMES and not process.is_watch_of_ours(code):
            raise process.unsupported(
                f"memory at {line.start:#x}",
                f"{reason} ({line.name.decode(errors='replace')}) is not supported",
            )
    protection = sum(
        bit for letter, bit in zip(line.permissions, (1, 2, 4), strict=False) if letter != "-"
    )
    kind, file, content = _backing(ctx, process, line)
    return VmaRecord(
        start=line.start,
        end=line.end,
        protection=protection,
        is_shared=line.is_shared,
        kind=kind,
        offset=line.offset,
        name=line.name,
        file=file,
        content=content,
        may_write="mw" in flags,
        advice=tuple(sorted(flags & _KEPT_FLAGS)),
    )


def _backing(
    ctx: CaptureContext, process: CapturedProcess, line: VmaLine
) -> tuple[VmaKind, FileVersion | None, Content | None]:
    name = line.name
    if name in KERNEL_NAMES:
        return VmaKind.KERNEL, None, None
    is_unnamed = (
        not name or name in (b"[heap]", b"[stack]") or name.startswith((b"[anon:", b"[stack:"))
    )
    if is_unnamed and not line.is_shared:
        return VmaKind.ANONYMOUS, None, None
    link = f"/proc/{process.tid}/map_files/{line.start:x}-{line.end:x}"
    if line.is_shared and (name.startswith((b"/dev/zero (deleted)", b"[anon_shmem:"))):
        identity = ("shared memory", line.device, line.inode)
        size = os.stat(link).st_size
        return VmaKind.SHARED, None, ctx.keep(identity, size, lambda: SharedMemory(link, size))
    if not name.startswith(b"/"):
        raise process.unsupported(f"memory at {line.start:#x}", f"{name.decode()} is not supported")
    if name.endswith(b" (deleted)"):
        raise process.unsupported(
            f"memory at {line.start:#x}",
            f"a mapping of the deleted file {name.decode(errors='replace')}",
        )
    return VmaKind.FILE, _version(ctx, process, name, link), None


def _version(ctx: CaptureContext, process: CapturedProcess, path: bytes, link: str) -> FileVersion:
    found: FileVersion | None = ctx.versions.get(path)
    if found is None:
        stat = os.stat(link)
        found = FileVersion(path=path, size_bytes=stat.st_size, mtime_ns=stat.st_mtime_ns)
        ctx.versions[path] = found
    return found


class SharedMemory:
    """Bytes of an unnamed shared mapping, through /proc/<pid>/map_files."""

    def __init__(self, link: str, size_bytes: int) -> None:
        self._fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
        self._size_bytes = size_bytes

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        end = 0
        while end < self._size_bytes:
            try:
                start = os.lseek(self._fd, end, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = os.lseek(self._fd, start, os.SEEK_HOLE)
            yield start & -PAGE_BYTES, (end + PAGE_BYTES - 1) & -PAGE_BYTES

    def read_into(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if not count:  # a size that is no whole number of pages
                view[done:] = bytes(len(view) - done)
                return
            done += count

    def close(self) -> None:
        os.close(self._fd)


# --- restore --------------------------------------------------------------------------------------------------------


def open_version(ctx: RestoreContext, file: FileVersion, mode: int) -> int:
    """Open a file that must be as it was. RestoreConflictError (ENOENT, ESTALE) when it is gone or has changed."""

    def make() -> int:
        try:
            fd = os.open(file.path, mode | os.O_CLOEXEC)
        except OSError as error:
            raise RestoreConflictError(
                f"{file.path.decode(errors='replace')}: {error.strerror}; put the file back and restore again",
                error.errno or errno.ENOENT,
            ) from error
        ctx.opened(fd)
        stat = os.fstat(fd)
        if mode == os.O_RDONLY and (stat.st_size, stat.st_mtime_ns) != (
            file.size_bytes,
            file.mtime_ns,
        ):
            raise RestoreConflictError(
                f"{file.path.decode(errors='replace')} has changed since the checkpoint; put the old file back",
                errno.ESTALE,
            )
        return ctx.inheritable(fd)

    return ctx.once((file.path, mode), make)


def _clear(process: RestoredProcess, record: MemoryRecord) -> Iterator[Call]:
    """Empty the blank address space but for the arena; move vdso and vvar to their old places."""
    blank = {vma.name: vma for vma in process.layout if vma.name in KERNEL_NAMES}
    wanted = {vma.name: vma for vma in record.vmas if vma.kind is VmaKind.KERNEL}
    for vma in process.layout:
        if vma.name not in wanted and not process.is_arena(vma) and vma.name != b"[vsyscall]":
            yield call("munmap", vma.start, vma.length)
    for name, old in wanted.items():
        if name not in blank or blank[name].length != old.length:
            raise RestoreConflictError(
                "this kernel's vdso differs from the one of the checkpoint; boot that kernel to restore",
                errno.ENOTSUP,
            )
    # By way of a far place, as old and new places may overlap.
    lowest = min(vma.start for vma in blank.values())
    away = {name: process.spare_address + vma.start - lowest for name, vma in blank.items()}
    for name in wanted:
        length = blank[name].length
        yield call("mremap", blank[name].start, length, length, _MREMAP_MOVE_FIXED, away[name])
    for name, old in wanted.items():
        yield call("mremap", away[name], old.length, old.length, _MREMAP_MOVE_FIXED, old.start)


def _descriptor(ctx: RestoreContext, vma: VmaRecord) -> int:
    """The descriptor that backs a mapping, -1 for none."""
    if vma.kind is VmaKind.SHARED:
        assert vma.content is not None
        return _shared_descriptor(ctx, vma.content)
    if vma.kind is VmaKind.FILE:
        assert vma.file is not None
        return open_version(
            ctx, vma.file, os.O_RDWR if vma.is_shared and vma.may_write else os.O_RDONLY
        )
    return -1


def _map(ctx: RestoreContext, vma: VmaRecord) -> Call:
    flags = mmap.MAP_SHARED if vma.is_shared else mmap.MAP_PRIVATE
    flags |= 0x10  # MAP_FIXED
    if vma.kind is VmaKind.ANONYMOUS:
        flags |= mmap.MAP_ANONYMOUS
    if "gd" in vma.advice:
        flags |= _MAP_GROWSDOWN | _MAP_STACK
    if "nr" in vma.advice:
        flags |= _MAP_NORESERVE
    return call(
        "mmap", vma.start, vma.length, vma.protection, flags, _descriptor(ctx, vma), vma.offset
    )


def _shared_descriptor(ctx: RestoreContext, content: Content) -> int:
    """A descriptor of fresh shared anonymous memory that holds the kept bytes."""

    def make() -> int:
        memory = mmap.mmap(-1, content.size_bytes, mmap.MAP_SHARED | mmap.MAP_ANONYMOUS)
        view = memoryview(memory)

        def write(offset: int, data: memoryview) -> None:
            view[offset : offset + len(data)] = data[: content.size_bytes - offset]

        ctx.contents.copy_to(content.object_id, ctx.contents.data_ranges(content.object_id), write)
        fd = os.open(_own_link(memory), os.O_RDWR | os.O_CLOEXEC)
        view.release()
        ctx.opened(fd)
        return ctx.inheritable(fd)

    return ctx.once(("shared memory", content.object_id), make)


def _own_link(memory: mmap.mmap) -> str:
    """The link in /proc/self/map_files of a mapping of this process."""
    address = syscalls.address_of(memory)
    maps = proc.parse_maps(proc.read(os.getpid(), "maps"))
    vma = next(vma for vma in maps if vma.start <= address < vma.end)
    return f"/proc/self/map_files/{vma.start:x}-{vma.end:x}"


def _advise(vma: VmaRecord) -> Iterator[Call]:
    for code in vma.advice:
        if code in _ADVICE:
            yield call("madvise", vma.start, vma.length, _ADVICE[code])
        elif code == "lo":
            yield call("mlock2", vma.start, vma.length, 1)  # MLOCK_ONFAULT: contents follow


def _name(vma: VmaRecord) -> Call:
    """PR_SET_VMA_ANON_NAME; kernels without CONFIG_ANON_VMA_NAME refuse, and never printed one."""
    name = In(vma.name[6:-1] + b"\0")
    return call("prctl", _PR_SET_VMA, _PR_SET_VMA_ANON_NAME, vma.start, vma.length, name)
