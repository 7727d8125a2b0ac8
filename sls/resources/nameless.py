"""Inodes that are memory: shared anonymous memory, memfds, deleted files, rings. A generation keeps their bytes.

Not a resource of its own: descriptors and mappings of one such inode both refer to it, and find one object again.
A deleted file is made anew beside where it was and deleted at once, so its link count is 0 as before; one of
O_TMPFILE can still be given a name. POSIX shared memory (shm_overview(7), sem_overview(7)) has a name in /dev/shm, a
file of hugetlbfs (`huge_pages`) wherever that is mounted, but both are memory all the same: they get their old bytes
back, unless others use them, and are made again when they are gone.
Sources: memfd_create(2), open(2), unlink(2), fcntl(2) on leases.
"""

import enum
import errno
import fcntl
import mmap
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, Self

from sls import io_ring, proc, syscalls
from sls.errors import RestoreConflictError
from sls.mount_tree import MountTree
from sls.ranges import intersection
from sls.resources import huge_pages
from sls.resources.base import CaptureContext, Content, Record, RestoreContext
from sls.syscalls import PAGE_BYTES

_DELETED: Final = b" (deleted)"
_MEMFD: Final = b"/memfd:"
_POSIX: Final = b"/dev/shm/"
HUGE_ANONYMOUS: Final = b"/anon_hugepage (deleted)"
_MFD_HUGETLB: Final = 4
_NO_SEALS: Final = 0
_F_ADD_SEALS, _F_GET_SEALS = 1033, 1034
_BLOCK_BYTES: Final = 512  # of st_blocks
_LOOK_BYTES: Final = 1 << 20
_NAME_TRIES: Final = 100


class NamelessKind(enum.Enum):
    """How such an inode comes to be."""

    ANONYMOUS = "anonymous"
    MEMFD = "memfd"
    DELETED = "deleted"
    TMPFILE = "tmpfile"
    NAMED = "posix"  # or of hugetlbfs
    RING = "ring"


class RingState(Record, frozen=True):
    """What a ring of io_uring(7) is made with, and how many requests it has taken and answered, modulo 2^32.

    `has_indices`: None where nothing tells. It gets some then, each of which leads to its own entry: who knows of none
    finds what he expects, and who knows of them sets them.
    """

    submissions: int
    completions: int
    has_indices: bool | None
    requests: int


def shape_of(state: RingState) -> io_ring.Shape:
    """What a ring like that is made with."""
    return io_ring.Shape(state.submissions, state.completions, state.has_indices is not False)


_WITH_PATH: Final = (NamelessKind.DELETED, NamelessKind.TMPFILE, NamelessKind.NAMED)


class Nameless(Record, frozen=True):
    """One inode. `name`: of a memfd its name, of a file the path that it has or had, or the directory of O_TMPFILE."""

    kind: NamelessKind
    content: Content
    name: bytes = b""
    mode: int = 0o600
    uid: int = 0
    gid: int = 0
    seals: int = 0
    mtime_ns: int = 0
    page_bytes: int = 0  # of huge pages
    mounts: bytes = (
        b""  # the link of the mount namespace that `name` is of; empty for the restorer's
    )
    ring: RingState | None = None
    attributes: tuple[tuple[bytes, bytes], ...] = ()  # xattr(7): name and value


# --- capture --------------------------------------------------------------------------------------------------------


def is_nameless(tree: MountTree, target: bytes, status: os.stat_result) -> bool:
    """Whether `target`, a link's text in /proc, names nothing: a file may well be called `x (deleted)`."""
    if not target.endswith(_DELETED):
        return False
    try:
        named = tree.stat(target)
    except OSError:
        return True
    return (named.st_dev, named.st_ino) != (status.st_dev, status.st_ino)


def is_named_memory(tree: MountTree, link: str, target: bytes, status: os.stat_result) -> bool:
    """Whether `target`, the text of `link`, names memory: a file of hugetlbfs, or of a tmpfs on /dev/shm."""
    if not stat.S_ISREG(status.st_mode) or os.major(status.st_dev):
        return False
    if not target.startswith(_POSIX) and not huge_pages.page_bytes_of(link, status):
        return False
    try:
        named = tree.stat(target)
    except OSError:
        return False
    return (named.st_dev, named.st_ino) == (status.st_dev, status.st_ino)


def other_name(tree: MountTree, target: bytes, status: os.stat_result) -> bytes | None:
    """Another hard link of an inode whose own name `target` is deleted, if its directory holds one."""
    if not status.st_nlink:
        return None
    try:
        folder = os.path.dirname(target)
        with tree.reach(folder) as name, os.scandir(name) as entries:
            return next(
                (
                    os.path.join(folder, entry.name)
                    for entry in entries
                    if entry.inode() == status.st_ino
                ),
                None,
            )  # an inode number is of one filesystem, and so is a directory but for mount points
    except OSError:
        return None


def capture_nameless(
    ctx: CaptureContext, tree: MountTree, link: str, target: bytes, status: os.stat_result
) -> Nameless:
    """The inode behind `link` (in /proc/<pid>/fd or map_files), its bytes kept once for all who refer to it.

    `tree`: what `target`, the link's text, is a path of.
    """
    size = status.st_size
    identity = ("inode", status.st_dev, status.st_ino)
    content = ctx.keep(identity, size, lambda: InodeBytes(link, size))
    name = target.removesuffix(_DELETED)
    kind, seals = NamelessKind.DELETED, _NO_SEALS
    if is_named_memory(tree, link, target, status):
        kind, name = NamelessKind.NAMED, target
    elif target.startswith(_MEMFD):
        kind, name = NamelessKind.MEMFD, name.removeprefix(_MEMFD)
        seals = _seals(link)
    elif not target.startswith(b"/") or target.startswith((b"/dev/zero (deleted)", HUGE_ANONYMOUS)):
        kind, name = NamelessKind.ANONYMOUS, b""
    elif os.path.basename(name) == b"#%d" % status.st_ino:  # d_tmpfile() of fs/dcache.c
        kind, name = NamelessKind.TMPFILE, os.path.dirname(name)
    return Nameless(
        kind=kind,
        content=content,
        name=name,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        seals=seals,
        mtime_ns=status.st_mtime_ns,
        page_bytes=huge_pages.page_bytes_of(link, status),
        mounts=tree.link if kind in _WITH_PATH else b"",
        attributes=() if kind is NamelessKind.ANONYMOUS else tuple(_attributes(link)),
    )


def _attributes(link: str) -> Iterator[tuple[bytes, bytes]]:
    """Extended attributes, access control lists among them; none where the filesystem has none."""
    try:
        for name in os.listxattr(link):
            yield os.fsencode(name), os.getxattr(link, name)
    except OSError as error:
        if error.errno not in (errno.ENOTSUP, errno.ENODATA):
            raise


def _seals(link: str) -> int:
    fd = os.open(link, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return fcntl.fcntl(fd, _F_GET_SEALS)
    finally:
        os.close(fd)


def tells_holes(fd: int, status: os.stat_result) -> bool:
    """Whether its filesystem tells where a file has holes; one that does not calls all of it data (lseek(2))."""
    return not holes_bytes(status) or os.lseek(fd, 0, os.SEEK_HOLE) < status.st_size


def holes_bytes(status: os.stat_result) -> int:
    """How much of a file is not there."""
    return max(status.st_size - status.st_blocks * _BLOCK_BYTES, 0)


class InodeBytes:
    """A `MemorySource`: an inode's data, read through a link in /proc; holes stay holes."""

    def __init__(self, link: str, size_bytes: int) -> None:
        self._link = link
        self._size_bytes = size_bytes

    def __enter__(self) -> Self:
        self._fd = os.open(self._link, os.O_RDONLY | os.O_CLOEXEC)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        if tells_holes(self._fd, os.fstat(self._fd)):
            return self._ranges_of_data()
        return self._ranges_that_are_not_zero()

    def _ranges_that_are_not_zero(self) -> Iterator[tuple[int, int]]:
        for start in range(0, self._size_bytes, _LOOK_BYTES):
            data = os.pread(self._fd, _LOOK_BYTES, start)
            for at in range(0, len(data), PAGE_BYTES):
                if data.count(0, at, at + PAGE_BYTES) < min(PAGE_BYTES, len(data) - at):
                    yield start + at, start + at + PAGE_BYTES

    def _ranges_of_data(self) -> Iterator[tuple[int, int]]:
        end = 0
        while end < self._size_bytes:
            try:
                start = max(os.lseek(self._fd, end, os.SEEK_DATA) & -PAGE_BYTES, end)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            end = (os.lseek(self._fd, start, os.SEEK_HOLE) + PAGE_BYTES - 1) & -PAGE_BYTES
            yield start, end

    def read_into(self, offset: int, view: memoryview) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self._fd, [view[done:]], offset + done)
            if not count:  # a size that is no whole number of pages
                view[done:] = bytes(len(view) - done)
                return
            done += count


# --- restore --------------------------------------------------------------------------------------------------------


def nameless_descriptor(ctx: RestoreContext, inode: Nameless, mode: int) -> int:
    """A descriptor (O_RDONLY or O_RDWR) of the inode, the same for all who ask; the processes inherit it."""
    if inode.ring is not None:
        return _ring_descriptor(ctx, inode.content, inode.ring)

    def make() -> int:
        made = ctx.once(("inode", inode.content.object_id), lambda: _make(ctx, inode))
        fd = os.open(f"/proc/self/fd/{made}", mode | os.O_CLOEXEC)
        try:
            return ctx.inheritable(fd)
        finally:
            os.close(fd)

    return ctx.once(("inode", inode.content.object_id, mode), make)


def _ring_descriptor(ctx: RestoreContext, content: Content, state: RingState) -> int:
    """The one descriptor of a ring, brought to where it was; its memory holds what it held."""
    shape = shape_of(state)

    def make() -> int:
        try:
            fd = ctx.opened(io_ring.make(shape))
        except OSError as error:
            raise RestoreConflictError(
                f"a ring of io_uring cannot be made: {error.strerror}; see kernel.io_uring_disabled (sysctl)",
                error.errno or errno.EPERM,
            ) from error
        with io_ring.Ring(fd, shape) as ring:
            ring.advance(state.requests)
            ranges = ctx.contents.data_ranges(content.object_id)
            ctx.contents.copy_to(content.object_id, ranges, ring.write)
            if state.has_indices is None:
                ring.number_indices()
        return ctx.inheritable(fd)

    return ctx.once(("ring", content.object_id), make)


def tmpfile_original(ctx: RestoreContext, inode: Nameless) -> int:
    """A duplicate of what open(2) with O_TMPFILE gave, the only one whose flags say so."""
    nameless_descriptor(ctx, inode, os.O_RDONLY)
    original: int = ctx.once(("original", inode.content.object_id), lambda: -1)
    return os.dup(original)


def seal(ctx: RestoreContext, inode: Nameless) -> None:
    """Put the seals of a memfd on, once all its writable mappings are there."""

    def add() -> None:
        fd = nameless_descriptor(ctx, inode, os.O_RDWR)
        fcntl.fcntl(fd, _F_ADD_SEALS, inode.seals)

    if inode.seals:
        ctx.once(("seals", inode.content.object_id), add)


def _make(ctx: RestoreContext, inode: Nameless) -> int:
    """A read-only descriptor of the inode, filled: an executable must not be open for writing (ETXTBSY)."""
    try:
        fd = _MAKERS[inode.kind](ctx, inode)
    except OSError as error:
        raise RestoreConflictError(
            f"{inode.name.decode(errors='replace')} cannot be made again: {error.strerror}; "
            "see to its directory and restore again",
            error.errno or errno.EIO,
        ) from error
    try:
        if inode.kind is not NamelessKind.NAMED or not _is_in_use(ctx, inode, fd):
            _fill_or_refuse(ctx, inode, fd)
        if inode.kind is NamelessKind.TMPFILE:
            original = ctx.opened(os.dup(fd))
            ctx.once(("original", inode.content.object_id), lambda: original)
        return ctx.opened(os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC))
    finally:
        os.close(fd)


def _fill_or_refuse(ctx: RestoreContext, inode: Nameless, fd: int) -> None:
    try:
        _fill(ctx, inode, fd)
    except OSError as error:
        raise RestoreConflictError(
            f"the {inode.content.size_bytes} bytes of {inode.name.decode(errors='replace') or 'shared memory'} "
            f"cannot be written: {error.strerror}; make room for them and restore again",
            error.errno or errno.EIO,
        ) from error


def _fill(ctx: RestoreContext, inode: Nameless, fd: int) -> None:
    size = inode.content.size_bytes

    def write(offset: int, data: memoryview) -> None:
        data = data[: size - offset]
        done = 0
        while done < len(data):
            done += os.pwrite(fd, data[done:], offset + done)

    object_id = inode.content.object_id
    if inode.kind is not NamelessKind.ANONYMOUS:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, size)
    pages = -(-size // PAGE_BYTES) * PAGE_BYTES
    ranges = intersection(list(ctx.contents.data_ranges(object_id)), [(0, pages)])
    if inode.page_bytes:
        huge_pages.fill(ctx.contents, object_id, fd, inode.page_bytes, ranges)
    else:
        ctx.contents.copy_to(object_id, ranges, write)
    if inode.kind is not NamelessKind.ANONYMOUS:
        os.fchown(fd, inode.uid, inode.gid)
        os.fchmod(fd, inode.mode)
        _set_attributes(ctx, inode, fd)
        os.utime(fd, ns=(inode.mtime_ns, inode.mtime_ns))


def _set_attributes(ctx: RestoreContext, inode: Nameless, fd: int) -> None:
    for name, value in inode.attributes:
        try:
            os.setxattr(fd, name, value)
        except OSError as error:
            file, words = (one.decode(errors="replace") for one in (inode.name, name))
            ctx.note("files", f"{file}: the attribute {words} cannot be set: {error.strerror}")


def _make_anonymous(ctx: RestoreContext, inode: Nameless) -> int:
    """Shared anonymous memory has no descriptor but its link in map_files."""
    size = max(inode.content.size_bytes, PAGE_BYTES)
    flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS
    if inode.page_bytes:
        size_flags = huge_pages.size_flags(inode.page_bytes)
        flags |= huge_pages.MAP_HUGETLB | huge_pages.MAP_NORESERVE | size_flags
    with mmap.mmap(-1, size, flags) as memory:
        address = syscalls.address_of(memory)
        maps = proc.parse_maps(proc.read(os.getpid(), "maps"))
        vma = next(vma for vma in maps if vma.start <= address < vma.end)
        return os.open(f"/proc/self/map_files/{vma.start:x}-{vma.end:x}", os.O_RDWR | os.O_CLOEXEC)


def _make_memfd(ctx: RestoreContext, inode: Nameless) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if inode.page_bytes:
        flags |= _MFD_HUGETLB | huge_pages.size_flags(inode.page_bytes)
    return os.memfd_create(os.fsdecode(inode.name), flags)


def _make_deleted(ctx: RestoreContext, inode: Nameless) -> int:
    """Under its old name if that is free, so that /proc shows it again."""
    folder = existing_folder(ctx, inode.mounts, inode.name, os.path.dirname(inode.name))
    _require_hugetlbfs(ctx, inode, folder)

    def make(path: bytes) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        os.unlink(path)
        return fd

    return make_and_remove(ctx, inode.mounts, folder, os.path.basename(inode.name), make)


def make_and_remove(
    ctx: RestoreContext, mounts: bytes, folder: bytes, name: bytes, make: Callable[[bytes], int]
) -> int:
    """`make` called with a path that is free, the old one if it is. FileExistsError."""
    names = [name, *(b".%s.%d" % (name[:200], number) for number in range(_NAME_TRIES))]
    for one in names:
        try:
            with ctx.as_owner(), ctx.trees[mounts].beside(os.path.join(folder, one)) as path:
                return make(path)
        except FileExistsError:
            continue
    raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)


def _make_named(ctx: RestoreContext, inode: Nameless) -> int:
    """The one that is there, for others may know it, else a new one."""
    _require_hugetlbfs(ctx, inode, os.path.dirname(inode.name))
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
    with ctx.as_owner(), ctx.trees[inode.mounts].beside(inode.name) as path:
        try:
            return os.open(path, flags)
        except FileNotFoundError:
            fd = os.open(path, flags | os.O_CREAT, 0o600)
    ctx.on_failure(partial(_remove, ctx.trees[inode.mounts], inode.name))
    return fd


def _remove(tree: MountTree, name: bytes) -> None:
    with tree.beside(name) as path:
        os.unlink(path)


def _is_in_use(ctx: RestoreContext, inode: Nameless, fd: int) -> bool:
    """Whether others have it open or mapped: a write lease is only given to the one and only holder."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except BlockingIOError:
        name = inode.name.decode(errors="replace")
        ctx.note("shared memory", f"{name} is in use by others: its bytes stay")
        return True
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


def _make_tmpfile(ctx: RestoreContext, inode: Nameless) -> int:
    folder = existing_folder(ctx, inode.mounts, inode.name, inode.name)
    _require_hugetlbfs(ctx, inode, folder)
    with ctx.as_owner(), ctx.trees[inode.mounts].reach(folder) as name:
        return os.open(name, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)


def existing_folder(ctx: RestoreContext, mounts: bytes, name: bytes, folder: bytes) -> bytes:
    """The nearest directory that is there, for what had the name `name`; told when that is not `folder`."""
    found = folder
    while not _is_folder(ctx.trees[mounts], found):
        found = os.path.dirname(found)
    if found != folder:
        old, new = (one.decode(errors="replace") for one in (name, found))
        ctx.note("deleted file", f"{old} lives in {new}: its directory is gone")
    return found


def _require_hugetlbfs(ctx: RestoreContext, inode: Nameless, folder: bytes) -> None:
    """RestoreConflictError (ENODEV) where a file of huge pages would be one of others: none is mounted there now."""
    with ctx.trees[inode.mounts].reach(folder) as path:
        found = huge_pages.page_bytes_of(path, os.stat(path))
    if inode.page_bytes and found != inode.page_bytes:
        raise RestoreConflictError(
            f"{inode.name.decode(errors='replace')} is of a hugetlbfs with pages of {inode.page_bytes >> 10} kB, "
            "which is not there; mount it and restore again",
            errno.ENODEV,
        )


def _is_folder(tree: MountTree, path: bytes) -> bool:
    try:
        return stat.S_ISDIR(tree.stat(path).st_mode)
    except OSError:
        return False


_MAKERS: Final = {
    NamelessKind.ANONYMOUS: _make_anonymous,
    NamelessKind.MEMFD: _make_memfd,
    NamelessKind.DELETED: _make_deleted,
    NamelessKind.TMPFILE: _make_tmpfile,
    NamelessKind.NAMED: _make_named,
}
