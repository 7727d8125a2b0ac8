"""Regular files and directories (open(2)): path, position, flags; deleted ones with their bytes.

A directory's position is its offset as well. O_PATH descriptors of anything with a path belong here too.

Not kept: a file that a mount hides, a deleted device: refused; a deleted file's other hard links, told.
Kernel: any.
"""

import errno
import os
import re
import stat
from typing import Final

from sls.errors import RestoreConflictError
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.resources.nameless import (
    Nameless,
    capture_nameless,
    existing_folder,
    holes_bytes,
    is_named_memory,
    is_nameless,
    make_and_remove,
    nameless_descriptor,
    other_name,
    tells_holes,
    tmpfile_original,
)

_DELETED: Final = b" (deleted)"
_OF_A_PROCESS: Final = re.compile(rb"/proc/\d+(/|$)")
_MOST_HOLES_BYTES: Final = 1 << 30  # that are read while everyone stands still
_QUEUE_BYTES: Final = 80  # FILENT_SIZE of ipc/mqueue.c
_CREATION_FLAGS: Final = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY
_TMPFILE_FLAGS: Final = os.O_TMPFILE | os.O_RDWR
# O_TMPFILE includes O_DIRECTORY, which no deleted file has; the link in /proc is a link indeed
_REOPEN_FLAGS: Final = ~(os.O_TMPFILE | os.O_NOFOLLOW)


class RemovedDirectory(Record, frozen=True):
    """A directory without a name, which is empty. `number`: of its inode, which tells it from others."""

    number: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int


class RegularRecord(FileRecord, frozen=True, tag="regular"):
    """A file or directory by its path, or, without a name, by its bytes."""

    path: bytes
    position: int
    is_directory: bool
    size_bytes: int
    inode: Nameless | None = None
    removed: RemovedDirectory | None = None


class Regular(FileType[RegularRecord]):
    """Files and directories."""

    record = RegularRecord

    def matches(self, file: OpenFile) -> bool:
        if not file.target.startswith(b"/"):
            return False
        mode = file.stat.st_mode
        return stat.S_ISREG(mode) or stat.S_ISDIR(mode) or bool(file.flags & os.O_PATH)

    def can_wait(self, file: OpenFile) -> bool:
        if file.stat.st_size == _QUEUE_BYTES:  # a queue's: only a descriptor of ours tells
            return False
        return not is_nameless(file.tree, file.target, file.stat) and not _is_named_memory(file)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> RegularRecord:
        path, inode, removed = file.target, None, None
        if is_nameless(file.tree, path, file.stat):
            found = other_name(file.tree, path, file.stat)
            if stat.S_ISDIR(file.stat.st_mode):
                path, removed = path.removesuffix(_DELETED), _removed(file.stat)
            elif found is None:
                inode = _capture_deleted(ctx, file)
            else:
                path = found
        elif _is_named_memory(file):
            inode = capture_nameless(ctx, file.tree, _link(file), path, file.stat)
        else:
            _refuse_unreachable(file)
        is_file = stat.S_ISREG(file.stat.st_mode)
        return RegularRecord(
            file_id=file.file_id,
            flags=file.flags & ~_CREATION_FLAGS,
            path=path,
            position=file.position,
            is_directory=stat.S_ISDIR(file.stat.st_mode),
            size_bytes=file.stat.st_size if is_file else 0,
            inode=inode,
            removed=removed,
        )

    def restore(self, ctx: RestoreContext, record: RegularRecord) -> int:
        flags = record.flags
        if record.inode is not None and flags & _TMPFILE_FLAGS == _TMPFILE_FLAGS:
            fd = tmpfile_original(ctx, record.inode)
            os.lseek(fd, record.position, os.SEEK_SET)
            return fd
        try:
            if record.removed is not None:
                fd = _open_removed(ctx, record, record.removed, flags & ~os.O_NOFOLLOW)
            elif record.inode is not None:
                made = nameless_descriptor(ctx, record.inode, os.O_RDONLY)
                fd = os.open(f"/proc/self/fd/{made}", flags & _REOPEN_FLAGS | os.O_CLOEXEC)
            else:
                with ctx.as_owner():
                    fd = ctx.trees[record.mounts].open(record.path, flags)
        except OSError as error:
            raise RestoreConflictError(
                f"{record.path.decode(errors='replace')}: {error.strerror}; put it back and restore again",
                error.errno or errno.ENOENT,
            ) from error
        if not record.flags & os.O_PATH:
            try:
                _check_size(record, fd)
                os.lseek(fd, record.position, os.SEEK_SET)
            except BaseException:
                os.close(fd)
                raise
        return fd


class ProcFileRecord(RegularRecord, frozen=True, tag="proc-file"):
    """A file of a process in /proc."""


class ProcFile(Regular):
    """Files and directories in /proc/<pid>: opened once the processes are there.

    In a mount namespace of its own all of /proc is mounted only then.
    """

    record = ProcFileRecord
    is_late = True

    def matches(self, file: OpenFile) -> bool:
        if not super().matches(file):
            return False
        is_shown = file.tree.kind_of(int(file.info["mnt_id"])) in (b"proc", b"sysfs")
        return is_shown or bool(_OF_A_PROCESS.match(file.target))

    def capture(self, ctx: CaptureContext, file: OpenFile) -> ProcFileRecord:
        record = super().capture(ctx, file)
        return ProcFileRecord(**{name: getattr(record, name) for name in record.__struct_fields__})


def _link(file: OpenFile) -> str:
    return f"/proc/{file.pid}/fd/{file.fd}"


def _is_named_memory(file: OpenFile) -> bool:
    return is_named_memory(file.tree, _link(file), file.target, file.stat)


def _refuse_unreachable(file: OpenFile) -> None:
    """The path must lead to the file: it does not below a mount that hides it."""
    try:
        with file.tree.reach(file.target, follow=not stat.S_ISLNK(file.stat.st_mode)) as path:
            found = os.lstat(path) if path == file.target else os.stat(path)
        is_same = (found.st_dev, found.st_ino) == (file.stat.st_dev, file.stat.st_ino)
    except OSError:
        is_same = False
    if not is_same:
        name = file.target.decode(errors="replace")
        raise file.unsupported(f"{name} cannot be reached by that path; a mount hides it")


def _capture_deleted(ctx: CaptureContext, file: OpenFile) -> Nameless:
    name = file.target.decode(errors="replace")
    if not stat.S_ISREG(file.stat.st_mode):
        raise file.unsupported(f"{name}: only a regular file can be kept once it is deleted")
    if file.stat.st_nlink:
        ctx.lose(file.pid, f"fd {file.fd}", f"{name}: comes back apart from its other hard links")
    link = _link(file)
    if holes_bytes(file.stat) > _MOST_HOLES_BYTES:
        with open(link, "rb", buffering=0) as opened:
            if not tells_holes(opened.fileno(), file.stat):
                raise file.unsupported(
                    f"{name}: a deleted file of {file.stat.st_size} bytes, and its filesystem does not tell which of "
                    "them are holes; close it before the checkpoint"
                )
    return capture_nameless(ctx, file.tree, link, file.target, file.stat)


def _removed(status: os.stat_result) -> RemovedDirectory:
    return RemovedDirectory(
        number=status.st_ino,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
    )


def _open_removed(
    ctx: RestoreContext, record: RegularRecord, removed: RemovedDirectory, flags: int
) -> int:
    """The first who had it open makes it, the others open what he has: there may be very many of them."""
    key = ("removed directory", record.mounts, record.path, removed.number)
    first = ctx.once(key, lambda: record.file_id)
    if first != record.file_id:
        return os.open(f"/proc/self/fd/{ctx.descriptor(first)}", flags | os.O_CLOEXEC)

    def make(path: bytes) -> int:
        os.mkdir(path, 0o700)
        fd = os.open(path, flags | os.O_DIRECTORY | os.O_CLOEXEC)
        os.rmdir(path)
        return fd

    folder = existing_folder(ctx, record.mounts, record.path, os.path.dirname(record.path))
    fd = make_and_remove(ctx, record.mounts, folder, os.path.basename(record.path), make)
    made = f"/proc/self/fd/{fd}"
    os.chown(made, removed.uid, removed.gid)
    os.chmod(made, removed.mode)
    os.utime(made, ns=(removed.mtime_ns, removed.mtime_ns))
    return fd


def _check_size(record: RegularRecord, fd: int) -> None:
    """A file that grew is as good; one that shrank has lost what the program wrote or will read."""
    size = os.fstat(fd).st_size
    if size < record.size_bytes:
        raise RestoreConflictError(
            f"{record.path.decode(errors='replace')} has {size} bytes, {record.size_bytes} at the checkpoint; "
            "put the old file back",
            errno.ESTALE,
        )
