"""A whole tmpfs(5): directories, files with their bytes, links, nodes; modes, owners, times, extended attributes.

Not a resource of its own: a mount namespace (`mount_namespace`) has such that are mounted nowhere else. The bytes of
all files lie one behind the other in one object of the generation, each from a page's start.
"""

import os
import stat
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Final, NamedTuple, Self

from sls.resources.base import CaptureContext, Content, Record, RestoreContext
from sls.resources.nameless import InodeBytes
from sls.syscalls import PAGE_BYTES

_FOLDER_MODE: Final = 0o755


class Entry(Record, frozen=True):
    """One name. `path`: below the filesystem's root, which is empty; `offset`: of a file's bytes in the content.

    `target`: of a symbolic link; `device`: st_rdev; `same_as`: the path of an entry before that is the same inode.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    size_bytes: int = 0
    offset: int = 0
    target: bytes = b""
    device: int = 0
    same_as: bytes | None = None
    attributes: tuple[tuple[str, bytes], ...] = ()


class TmpfsTree(Record, frozen=True):
    """Parents before children."""

    entries: tuple[Entry, ...]
    content: Content


# --- capture --------------------------------------------------------------------------------------------------------


class Part(NamedTuple):
    """A part of the filesystem that can be seen: a descriptor of its top, and that one's path in it."""

    fd: int
    path: bytes


def capture_tmpfs(ctx: CaptureContext, device: int, parts: Sequence[Part]) -> TmpfsTree:
    """What can be seen of it. Its users stand still; the descriptors must stay open while the content is copied."""
    entries: list[Entry] = []
    files: list[_File] = []
    seen: dict[int, bytes] = {}
    end = 0
    for part in parts:
        device = os.fstat(part.fd).st_dev
        for path, name, status in _walk(part):
            if status.st_dev != device:
                entries.append(_hidden(path, status))
                continue
            entry = _entry(path, name, status, seen, end, is_top=path == part.path)
            entries.append(entry)
            if entry.size_bytes:
                files.append(_File(end, os.fsdecode(name), entry.size_bytes))
                end += -(-entry.size_bytes // PAGE_BYTES) * PAGE_BYTES
    content = ctx.keep(("tmpfs", device), end, lambda: _Files(files))
    return TmpfsTree(entries=tuple(entries), content=content)


def _walk(part: Part) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """(path, name for our calls, status) of all that is there."""
    top = b"/proc/self/fd/%d" % part.fd
    status = os.stat(top)
    yield part.path, top, status
    if stat.S_ISDIR(status.st_mode):
        yield from _walk_below(part.path, top, status.st_dev)


def _walk_below(
    path: bytes, name: bytes, device: int
) -> Iterator[tuple[bytes, bytes, os.stat_result]]:
    """Where something is mounted that cannot be taken away, it is seen instead of what is under it."""
    for one in sorted(os.listdir(name)):
        below, inside = os.path.join(path, one), os.path.join(name, one)
        status = os.lstat(inside)
        yield below, inside, status
        if stat.S_ISDIR(status.st_mode) and status.st_dev == device:
            yield from _walk_below(below, inside, device)


def _entry(
    path: bytes,
    name: bytes,
    status: os.stat_result,
    seen: dict[int, bytes],
    end: int,
    *,
    is_top: bool,
) -> Entry:
    same_as = None
    if not stat.S_ISDIR(status.st_mode):
        first = seen.setdefault(status.st_ino, path)
        same_as = first if first != path else None
    is_link = stat.S_ISLNK(status.st_mode)
    is_file = stat.S_ISREG(status.st_mode) and same_as is None
    return Entry(
        path=path,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        size_bytes=status.st_size if is_file else 0,
        offset=end if is_file else 0,
        target=os.readlink(name) if is_link else b"",
        device=status.st_rdev,
        same_as=same_as,
        attributes=() if same_as is not None else tuple(_attributes(name, is_top=is_top)),
    )


def _hidden(path: bytes, status: os.stat_result) -> Entry:
    """A place for what is mounted on it."""
    mode = stat.S_IFDIR | _FOLDER_MODE if stat.S_ISDIR(status.st_mode) else stat.S_IFREG | 0o600
    return Entry(path=path, mode=mode, uid=0, gid=0, mtime_ns=status.st_mtime_ns)


def _attributes(name: bytes, *, is_top: bool) -> Iterator[tuple[str, bytes]]:
    """The top's name is a link of /proc, which is followed."""
    for key in os.listxattr(name, follow_symlinks=is_top):
        yield key, os.getxattr(name, key, follow_symlinks=is_top)


class _File(NamedTuple):
    start: int
    name: str
    size_bytes: int


class _Files:
    """A `MemorySource`: files one behind the other. Each is open only while it is read."""

    def __init__(self, files: list[_File]) -> None:
        self._files = files
        self._starts = [one.start for one in files]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        for file in self._files:
            with InodeBytes(file.name, file.size_bytes) as source:
                for start, end in source.data_ranges():
                    yield file.start + start, file.start + end

    def read_into(self, offset: int, view: memoryview) -> None:
        while view:
            at = bisect_right(self._starts, offset) - 1
            file = self._files[at]
            end = self._starts[at + 1] if at + 1 < len(self._files) else offset + len(view)
            length = min(end - offset, len(view))
            with InodeBytes(file.name, file.size_bytes) as source:
                source.read_into(offset - file.start, view[:length])
            offset, view = offset + length, view[length:]


# --- restore --------------------------------------------------------------------------------------------------------


def fill_tmpfs(ctx: RestoreContext, fd: int, tree: TmpfsTree) -> None:
    """Make all of it in an empty one, whose root `fd` is. OSError (ENOSPC among others) when it does not fit."""
    top = b"/proc/self/fd/%d" % fd
    for entry in tree.entries:
        _make(top, entry)
    _fill(ctx, top, tree)
    for entry in reversed(tree.entries):  # what is made in a directory changes its time
        if entry.same_as is None:
            _dress(_name(top, entry.path), entry)
    ctx.at_last(lambda: _set_times(top, tree))


def _name(top: bytes, path: bytes) -> bytes:
    return os.path.join(top, path) if path else top


def _make(top: bytes, entry: Entry) -> None:
    if not entry.path:
        return
    name = _name(top, entry.path)
    os.makedirs(os.path.dirname(name), _FOLDER_MODE, exist_ok=True)
    if entry.same_as is not None:
        os.link(_name(top, entry.same_as), name, follow_symlinks=False)
    elif stat.S_ISDIR(entry.mode):
        with suppress(FileExistsError):
            os.mkdir(name)
    elif stat.S_ISLNK(entry.mode):
        os.symlink(entry.target, name)
    else:
        os.mknod(name, entry.mode, entry.device)
        if entry.size_bytes:
            os.truncate(name, entry.size_bytes)


def _fill(ctx: RestoreContext, top: bytes, tree: TmpfsTree) -> None:
    files = [one for one in tree.entries if one.size_bytes]
    starts = [one.offset for one in files]

    def write(offset: int, data: memoryview) -> None:
        while data:
            at = bisect_right(starts, offset) - 1
            file = files[at]
            end = starts[at + 1] if at + 1 < len(files) else offset + len(data)
            length = min(end - offset, len(data))
            kept = min(length, file.offset + file.size_bytes - offset)
            _write(_name(top, file.path), offset - file.offset, data[:kept])
            offset, data = offset + length, data[length:]

    ranges = ctx.contents.data_ranges(tree.content.object_id)
    ctx.contents.copy_to(tree.content.object_id, ranges, write)


def _write(name: bytes, offset: int, data: memoryview) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        while data:
            done = os.pwrite(fd, data, offset)
            offset, data = offset + done, data[done:]
    finally:
        os.close(fd)


def _set_times(top: bytes, tree: TmpfsTree) -> None:
    """Once more: sockets were bound meanwhile, FIFOs filled, deleted files made and deleted."""
    for entry in tree.entries:
        if not stat.S_ISREG(entry.mode) and entry.same_as is None:
            with suppress(FileNotFoundError):  # the name of a socket that nobody has any more
                _set_time(_name(top, entry.path), entry)


def _set_time(name: bytes, entry: Entry) -> None:
    os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), follow_symlinks=not entry.path)


def _dress(name: bytes, entry: Entry) -> None:
    """Owner, mode, attributes, time; capabilities of a file go with a change of its owner."""
    is_link, is_top = stat.S_ISLNK(entry.mode), not entry.path
    os.chown(name, entry.uid, entry.gid, follow_symlinks=is_top)
    if not is_link:
        os.chmod(name, stat.S_IMODE(entry.mode))
    for key, value in entry.attributes:
        os.setxattr(name, key, value, follow_symlinks=is_top)
    _set_time(name, entry)
