"""Address spaces: VMAs, what is mapped in them, brk, and the layout that prctl(PR_SET_MM) describes.

Contents of private pages are not in the record: `sls.pages` copies them by address. Inodes without a name (`nameless`)
are kept as contents of the generation; files that have one are mapped again by it, and must not have changed.
Sources: proc(5), prctl(2) PR_SET_MM_MAP, Documentation/filesystems/proc.rst (VmFlags).

Not kept: protection keys, shadow stacks: refused.
Kernel: Linux 5.17 (names), 6.13 (guard pages), 6.7 for fast deltas.
"""

import enum
import errno
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from typing import Final

from sls import mounts, proc, syscalls
from sls.errors import RemoteSyscallError, RestoreConflictError
from sls.mount_tree import OURS, MountTree
from sls.pace import Pace
from sls.proc import VmaLine
from sls.remote import Call, In, Remote, Reply, call, remote_all
from sls.resources import huge_pages
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Memo,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.resources.io_uring import map_at, ring_behind
from sls.resources.nameless import (
    HUGE_ANONYMOUS,
    Nameless,
    NamelessKind,
    capture_nameless,
    is_named_memory,
    is_nameless,
    nameless_descriptor,
)
from sls.resources.sysv_shm import Part, attach, is_segment


class VmaKind(enum.Enum):
    """What backs a mapping."""

    ANONYMOUS = "anonymous"
    FILE = "file"
    NAMELESS = (
        "nameless"  # shared memory, memfd, deleted file: its bytes are contents of the generation
    )
    SEGMENT = "segment"  # System V shared memory, attached by its id
    KERNEL = "kernel"  # vdso and vvar


class FileVersion(Record, frozen=True):
    """A file by name, and what tells that it is still the same."""

    path: bytes
    size_bytes: int
    mtime_ns: int
    mounts: bytes = (
        b""  # the link of the mount namespace that it is a path of; empty for the restorer's
    )


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
    inode: Nameless | None = None
    segment: int = -1
    may_write: bool = True
    advice: tuple[str, ...] = ()
    is_accounted: bool = False
    guards: tuple[tuple[int, int], ...] = ()
    huge_page_bytes: int = 0  # of private anonymous memory in huge pages

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
    own_pages: tuple[
        tuple[int, int], ...
    ] = ()  # of mapped files: zeros where the generation has no bytes
    executable_inode: Nameless | None = None  # when it is deleted
    future_locks: int = 0  # flags of mlockall(2) for mappings to come
    ipc: bytes = b""  # the link of the IPC namespace of its segments; empty for the restorer's


_PR_SET_MM, _PR_SET_MM_MAP = 35, 14
_PR_SET_VMA, _PR_SET_VMA_ANON_NAME = 0x53564D41, 0
_MAP_GROWSDOWN: Final = 0x100
_MREMAP_MOVE_FIXED: Final = 3
_PLAIN: Final = (
    "plain memory"  # in the memo: whether nothing of it but pages goes into the generation
)
KERNEL_NAMES: Final = (b"[vdso]", b"[vvar]", b"[vvar_vclock]")
# VmFlags code → madvise(2) advice
_ADVICE: Final = {"rr": 1, "sr": 2, "dc": 10, "mg": 12, "hg": 14, "nh": 15, "dd": 16, "wf": 18}
_REFUSED: Final = {
    "io": "a mapping of device memory",
    "pf": "a mapping of device memory",
    "ss": "a shadow stack",
    "pk": "a protection key",
    "sf": "a synchronous mapping of persistent memory",
    "uw": "a mapping that another userfaultfd watches",
    "um": "a mapping that another userfaultfd watches",
}
_KEPT_FLAGS: Final = frozenset(_ADVICE) | {"gd", "nr", "lo", "lf", "dp", "sl"}
# what follows from the mapping itself, or says how the kernel holds it
_OTHER_FLAGS: Final = frozenset(
    [
        "rd",
        "wr",
        "ex",
        "sh",
        "mr",
        "mw",
        "me",
        "ms",
        "ac",
        "de",
        "ar",
        "sd",
        "mm",
        "bt",
        "gu",
        "ht",
        "uw",
        "um",
        "ui",
    ]
)
_MADV_GUARD_INSTALL: Final = 102  # Linux 6.13
_MAP_DROPPABLE: Final = 0x8  # Linux 6.11
_MLOCK_ONFAULT: Final = 1
_MCL_FUTURE, _MCL_ONFAULT = 2, 4


class Memory(ProcessState[MemoryRecord]):
    """Address spaces."""

    stage = Stage.MEMORY
    record = MemoryRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        is_plain = process.memo.of(_PLAIN, process.maps_text, lambda: False)
        return is_plain and not _has_locks(process) and not process.tree.link

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[MemoryRecord]:
        replies = yield [call("brk", 0)]
        flags = _flags(process.tid, process.maps_text, process.memo)
        stat = process.stat
        executable, executable_inode = _executable(ctx, process)
        vmas = _vmas(ctx, process, flags)
        is_plain = executable_inode is None and not any(one.inode or one.guards for one in vmas)
        process.memo.put(_PLAIN, process.maps_text, is_plain)
        return MemoryRecord(
            vmas=vmas,
            layout=(
                stat.start_code, stat.end_code, stat.start_data, stat.end_data, stat.start_brk,
                replies[0].check(), stat.start_stack, stat.arg_start, stat.arg_end, stat.env_start,
                stat.env_end,
            ),
            auxv=process.settled("auxv"),
            executable=executable,
            executable_inode=executable_inode,
            object_id=process.object_id,
            future_locks=_future_locks(process),
            ipc=process.ipc,
        )  # fmt: skip

    def look_ahead(self, tid: int, memo: Memo, *, anew: bool) -> None:
        maps_text = proc.read(tid, "maps")
        pace = memo.of("pace of smaps", b"", Pace)
        if not anew and memo.knows("smaps", maps_text) and not pace.is_due():
            return
        memo.of("maps", maps_text, lambda: proc.parse_maps(maps_text))
        with pace.looking():
            flags = proc.parse_smaps_flags(proc.read(tid, "smaps"))
        if not memo.put("smaps", maps_text, flags):
            memo.drop("vmas")
            memo.drop(_PLAIN)

    def prepare(self, ctx: RestoreContext, record: MemoryRecord) -> None:
        _check_huge_pages(record)
        _executable_descriptor(ctx, record)
        for vma in record.vmas:
            _descriptor(ctx, vma)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: MemoryRecord
    ) -> Remote[None]:
        yield from remote_all(list(_clear(process, record)))
        yield from _map_rings(ctx, process, record)
        parts = [_part(vma) for vma in record.vmas if vma.kind is VmaKind.SEGMENT]
        with ctx.in_ipc(record.ipc):
            calls = list(attach(ctx, parts))
        mapped = [vma for vma in record.vmas if vma.kind is not VmaKind.KERNEL]
        calls += [one for vma in mapped if not _is_apart(vma) for one in _map(ctx, vma)]
        calls += [
            call("madvise", vma.start, vma.length, _ADVICE[code])
            for vma in mapped
            for code in vma.advice
            if code in _ADVICE
        ]
        must_succeed = len(calls)
        calls += [_name(vma) for vma in record.vmas if vma.name.startswith(b"[anon:")]
        replies = yield calls
        _check_mapped(record, replies[:must_succeed])
        process.fill(
            record.object_id,
            [
                (vma.start, vma.end)
                for vma in record.vmas
                if vma.protection & mmap.PROT_WRITE or _own_huge_page_bytes(vma)
            ],
        )
        executable = _executable_descriptor(ctx, record)
        auxv = In(record.auxv)
        layout = struct.pack("=11QQII", *record.layout, 0, len(record.auxv), executable)
        yield from remote_all(
            [
                call(
                    "prctl", _PR_SET_MM, _PR_SET_MM_MAP, In(layout, ((88, auxv),)), len(layout), 0
                ),
                *(one for vma in mapped for one in _seal(vma)),
            ]
        )
        if record.future_locks:
            yield from remote_all([call("mlockall", record.future_locks)])


# --- capture --------------------------------------------------------------------------------------------------------


def _flags(tid: int, maps_text: bytes, memo: Memo) -> dict[int, frozenset[str]]:
    """VmFlags by start address. The kernel walks every page for smaps, so it is read again only with new maps.

    Advice or a lock given since to a whole mapping, which stays as it was, is seen when `look_ahead` reads it again.
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
        if record is None or not _is_current(ctx, process, line, record):
            if line.name == b"[vsyscall]" or process.is_arena(line):
                continue
            process.looks.must_be_at_rest(f"memory at {line.start:#x}")
            record = _vma(ctx, process, line, flags.get(line.start, frozenset()))
            if record.inode is None and not record.guards:
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
    if unknown := flags - _KEPT_FLAGS - _OTHER_FLAGS - _REFUSED.keys():
        ctx.lose(process.pid, f"memory at {line.start:#x}", f"flags {' '.join(sorted(unknown))}")
    kind, file, inode = _backing(ctx, process, line)
    huge_page_bytes = 0
    if "ht" in flags:
        huge_page_bytes = _huge_page_bytes(process, line, kind)
    return VmaRecord(
        start=line.start,
        end=line.end,
        protection=protection,
        is_shared=line.is_shared,
        kind=kind,
        offset=line.offset,
        name=line.name,
        file=file,
        inode=inode,
        segment=line.inode if kind is VmaKind.SEGMENT else -1,
        may_write="mw" in flags,
        advice=tuple(sorted(flags & _KEPT_FLAGS)),
        is_accounted="ac" in flags and not protection & mmap.PROT_WRITE,
        guards=_guards(process.tid, line) if "gu" in flags else (),
        huge_page_bytes=huge_page_bytes,
    )


def _huge_page_bytes(process: CapturedProcess, line: VmaLine, kind: VmaKind) -> int:
    """Of private memory without an inode to be kept; 0 where that has the pages' size."""
    if kind is VmaKind.ANONYMOUS:
        return os.stat(_link(process, line)).st_blksize
    if kind is VmaKind.FILE:
        name = line.name.decode(errors="replace")
        raise process.unsupported(
            f"memory at {line.start:#x}", f"{name} cannot be reached by that path; a mount hides it"
        )
    return 0


def _link(process: CapturedProcess, line: VmaLine) -> str:
    return f"/proc/{process.tid}/map_files/{line.start:x}-{line.end:x}"


def _guards(tid: int, line: VmaLine) -> tuple[tuple[int, int], ...]:
    """Ranges of guard pages, which are no mappings of their own. Before `gu` in VmFlags they cannot be copied."""
    fd = os.open(f"/proc/{tid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    try:
        category = syscalls.PAGE_IS_GUARD
        regions = syscalls.scan_regions(
            fd, line.start, line.end, all_of=category, returned=category
        )
        return tuple((one.start, one.end) for one in syscalls.as_pages(regions))
    finally:
        os.close(fd)


def _future_locks(process: CapturedProcess) -> int:
    """What mlockall(2) has asked for mappings to come: our own, the newest, shows it. Asked where any is locked."""
    if not _has_locks(process) or process.arena is None:
        return 0
    flags = proc.parse_smaps_flags(proc.read(process.tid, "smaps")).get(
        process.arena.base, frozenset()
    )
    return (_MCL_FUTURE if "lo" in flags else 0) | (_MCL_ONFAULT if "lf" in flags else 0)


def _has_locks(process: CapturedProcess) -> bool:
    return process.status["VmLck"].split()[0] != "0"


def _backing(
    ctx: CaptureContext, process: CapturedProcess, line: VmaLine
) -> tuple[VmaKind, FileVersion | None, Nameless | None]:
    name = line.name
    if name in KERNEL_NAMES:
        return VmaKind.KERNEL, None, None
    is_unnamed = (
        not name
        or name in (b"[heap]", b"[stack]", HUGE_ANONYMOUS)
        or name.startswith((b"[anon:", b"[stack:"))
    )
    if is_unnamed and not line.is_shared:
        return VmaKind.ANONYMOUS, None, None
    if is_segment(line):
        return VmaKind.SEGMENT, None, None
    tree = _tree(process, _link(process, line))
    if (tree.link, name) in ctx.versions:
        return VmaKind.FILE, ctx.versions[tree.link, name], None
    if name.startswith(b"/[aio]"):  # it has no entry in map_files
        raise process.unsupported(
            f"memory at {line.start:#x}",
            "an asynchronous I/O context (io_setup(2)) is not supported",
        )
    if ring := ring_behind(ctx, line):
        return VmaKind.NAMELESS, None, ring
    link = _link(process, line)
    status = os.stat(link)
    is_memory = is_nameless(tree, name, status) or is_named_memory(tree, link, name, status)
    if is_memory or name.startswith((b"/dev/zero (deleted)", b"[anon_shmem:")):
        return VmaKind.NAMELESS, None, capture_nameless(ctx, tree, link, name, status)
    if not name.startswith(b"/"):
        raise process.unsupported(f"memory at {line.start:#x}", f"{name.decode()} is not supported")
    return VmaKind.FILE, _version(ctx, tree, name, status), None


def _executable(
    ctx: CaptureContext, process: CapturedProcess
) -> tuple[FileVersion, Nameless | None]:
    link = f"/proc/{process.tid}/exe"
    target = process.settled_link("exe")
    status = process.looks.meanwhile(("status of", link), lambda: os.stat(link))
    tree = _tree(process, link)
    if not is_nameless(tree, target, status):
        return _version(ctx, tree, target, status), None
    version = FileVersion(path=target, size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    return version, capture_nameless(ctx, tree, link, target, status)


def _is_current(
    ctx: CaptureContext, process: CapturedProcess, line: VmaLine, record: VmaRecord
) -> bool:
    """Whether the mapped file is still what the record of an earlier capture says of it."""
    if record.file is None:
        return True
    path, key = record.file.path, (record.file.mounts, record.file.path)
    if key not in ctx.versions:
        try:
            status = os.stat(f"/proc/{process.tid}/map_files/{line.start:x}-{line.end:x}")
        except FileNotFoundError:
            process.looks.must_be_at_rest(f"the mapping of {path.decode(errors='replace')}")
            raise
        _version(ctx, _tree(process, _link(process, line)), path, status)
    return bool(ctx.versions.get(key) == record.file)


def _tree(process: CapturedProcess, link: str) -> MountTree:
    """What the target of `link`, in /proc, is a path of."""
    if not process.tree.link:
        return OURS
    process.looks.must_be_at_rest(f"the mount of {link}")
    return process.tree if process.tree.holds(mounts.number_of(link)) else OURS


def _version(
    ctx: CaptureContext, tree: MountTree, path: bytes, status: os.stat_result
) -> FileVersion:
    found: FileVersion | None = ctx.versions.get((tree.link, path))
    if found is None:
        found = FileVersion(
            path=path,
            size_bytes=status.st_size,
            mtime_ns=status.st_mtime_ns,
            mounts=tree.link,
        )
        ctx.versions[tree.link, path] = found
    return found


# --- restore --------------------------------------------------------------------------------------------------------


def open_version(ctx: RestoreContext, file: FileVersion, mode: int) -> int:
    """Open a file that must be as it was. RestoreConflictError (ENOENT, ESTALE) when it is gone or has changed."""

    def make() -> int:
        try:
            with ctx.as_owner():
                fd = ctx.trees[file.mounts].open(file.path, mode)
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

    return ctx.once((file.mounts, file.path, mode), make)


def _check_huge_pages(record: MemoryRecord) -> None:
    """RestoreConflictError (ENOMEM) when there are not enough for its private memory."""
    wanted: dict[int, int] = {}
    for vma in record.vmas:
        if (page_bytes := _own_huge_page_bytes(vma)) and "nr" not in vma.advice:
            wanted[page_bytes] = wanted.get(page_bytes, 0) + vma.length // page_bytes
    huge_pages.require_free(wanted)


def _check_mapped(record: MemoryRecord, replies: Sequence[Reply]) -> None:
    """RestoreConflictError (ENOMEM) when there are not enough huge pages for what it shares, RemoteSyscallError."""
    try:
        for reply in replies:
            reply.check()
    except RemoteSyscallError as error:
        inodes = [vma.inode for vma in record.vmas if vma.inode is not None]
        page_bytes = max((one.page_bytes for one in inodes), default=0)
        if error.errno != errno.ENOMEM or not page_bytes:
            raise
        raise huge_pages.too_few(page_bytes) from error


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
    mode = os.O_RDWR if vma.is_shared and vma.may_write else os.O_RDONLY
    if vma.inode is not None:
        return nameless_descriptor(ctx, vma.inode, mode)
    if vma.file is not None:
        return open_version(ctx, vma.file, mode)
    return -1


def _executable_descriptor(ctx: RestoreContext, record: MemoryRecord) -> int:
    if record.executable_inode is not None:
        return nameless_descriptor(ctx, record.executable_inode, os.O_RDONLY)
    return open_version(ctx, record.executable, os.O_RDONLY)


def _part(vma: VmaRecord) -> Part:
    return Part(vma.start, vma.end, vma.offset, vma.protection, vma.may_write, vma.segment)


def _map(ctx: RestoreContext, vma: VmaRecord) -> Iterator[Call]:
    flags = mmap.MAP_SHARED if vma.is_shared else mmap.MAP_PRIVATE
    if "dp" in vma.advice:
        flags = _MAP_DROPPABLE
    flags |= 0x10  # MAP_FIXED
    if vma.kind is VmaKind.ANONYMOUS:
        flags |= mmap.MAP_ANONYMOUS
    if "gd" in vma.advice:
        flags |= _MAP_GROWSDOWN
    if "nr" in vma.advice:
        flags |= huge_pages.MAP_NORESERVE
    if vma.huge_page_bytes:
        flags |= huge_pages.MAP_HUGETLB | huge_pages.size_flags(vma.huge_page_bytes)
    # memory that was writable once counts against the commit limit, also when it is no longer (RELRO)
    protection = vma.protection | (mmap.PROT_WRITE if vma.is_accounted else 0)
    if _own_huge_page_bytes(vma):
        protection |= mmap.PROT_WRITE  # to be filled: not even a debugger writes to it otherwise
    offset = 0 if vma.kind is VmaKind.ANONYMOUS else vma.offset
    yield call("mmap", vma.start, vma.length, protection, flags, _descriptor(ctx, vma), offset)
    if vma.is_accounted and not _own_huge_page_bytes(vma):
        yield call("mprotect", vma.start, vma.length, vma.protection)


def _is_ring(vma: VmaRecord) -> bool:
    return vma.inode is not None and vma.inode.kind is NamelessKind.RING


def _is_apart(vma: VmaRecord) -> bool:
    """Whether it is mapped in a way of its own."""
    return vma.kind is VmaKind.SEGMENT or _is_ring(vma)


def _map_rings(ctx: RestoreContext, process: RestoredProcess, record: MemoryRecord) -> Remote[None]:
    """While the address space is empty but for what the kernel and we have in it."""
    rings = [vma for vma in record.vmas if _is_ring(vma)]
    if not rings:
        return
    taken = [process.arena_place]
    taken += [(vma.start, vma.end) for vma in record.vmas if vma.kind is VmaKind.KERNEL]
    places = [((vma.start, vma.end), _map_anywhere(ctx, vma)) for vma in rings]
    yield from map_at(places, taken)


def _map_anywhere(ctx: RestoreContext, vma: VmaRecord) -> Call:
    flags, descriptor = mmap.MAP_SHARED, _descriptor(ctx, vma)
    return call("mmap", 0, vma.length, vma.protection, flags, descriptor, vma.offset)


def _own_huge_page_bytes(vma: VmaRecord) -> int:
    """Of private memory, of an inode or not; 0 where its pages have the usual size."""
    of_inode = vma.inode.page_bytes if vma.inode is not None and not vma.is_shared else 0
    return vma.huge_page_bytes or of_inode


def _seal(vma: VmaRecord) -> Iterator[Call]:
    """What comes after the contents: locks, which would make pages; guard pages, which cannot be written; seals."""
    if _own_huge_page_bytes(vma):
        yield call("mprotect", vma.start, vma.length, vma.protection)
    if "lo" in vma.advice:
        yield call("mlock2", vma.start, vma.length, _MLOCK_ONFAULT if "lf" in vma.advice else 0)
    for start, end in vma.guards:
        yield call("madvise", start, end - start, _MADV_GUARD_INSTALL)
    if "sl" in vma.advice:
        yield call("mseal", vma.start, vma.length, 0)


def _name(vma: VmaRecord) -> Call:
    """PR_SET_VMA_ANON_NAME; kernels without CONFIG_ANON_VMA_NAME refuse, and never printed one."""
    name = In(vma.name[6:-1] + b"\0")
    return call("prctl", _PR_SET_VMA, _PR_SET_VMA_ANON_NAME, vma.start, vma.length, name)
