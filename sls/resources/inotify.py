"""inotify(7): watches by path, under their old numbers. Events that wait to be read cannot be looked at.

fdinfo names a watched inode by device and file handle; open_by_handle_at(2) turns it into a path. Watch descriptors
are numbers that inotify counts up, so the count is moved by watches that are removed at once.

Not kept: events that wait to be read, told.
Kernel: Linux 3.8 (fdinfo).
"""

import errno
import fcntl
import os
import re
import struct
import termios
from collections.abc import Iterator
from typing import Final

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.mount_tree import MountTree
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.syscalls import FileHandle

_WATCH: Final = re.compile(
    r"inotify wd:([0-9a-f]+) ino:([0-9a-f]+) sdev:([0-9a-f]+) mask:([0-9a-f]+)"
    r".*fhandle-type:([0-9a-f]+) f_handle:([0-9a-f]+)"
)
_DONT_FOLLOW: Final = 0x02000000
_NUMBER_LIMIT: Final = 1 << 16
_READ_BYTES: Final = 1 << 16


class Watch(Record, frozen=True):
    """One watched inode, by a path of it."""

    number: int
    path: bytes
    mask: int
    mounts: bytes = (
        b""  # the link of the mount namespace that it is a path of; empty for the restorer's
    )


class InotifyRecord(FileRecord, frozen=True, tag="inotify"):
    """One instance; `watches` in ascending order."""

    watches: tuple[Watch, ...]


class Inotify(FileType[InotifyRecord]):
    """Watches on files and directories."""

    record = InotifyRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target in (b"anon_inode:inotify", b"anon_inode:[inotify]")

    def capture(self, ctx: CaptureContext, file: OpenFile) -> InotifyRecord:
        if _queued_bytes(file.descriptor):
            ctx.lose(file.pid, f"fd {file.fd}", "inotify events that were not read yet")
        watches = sorted(_watches(file), key=lambda watch: watch.number)
        if watches and watches[-1].number > _NUMBER_LIMIT:
            raise file.unsupported(
                f"inotify watch number {watches[-1].number} is too high to be given again"
            )
        return InotifyRecord(file_id=file.file_id, flags=file.flags, watches=tuple(watches))

    def restore(self, ctx: RestoreContext, record: InotifyRecord) -> int:
        fd = syscalls.inotify_init(os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            with ctx.as_owner():
                for watch in record.watches:
                    _add(ctx.trees[watch.mounts], fd, watch)
            _forget_events(fd)
        except BaseException:
            os.close(fd)
            raise
        return fd


# --- capture --------------------------------------------------------------------------------------------------------


def _queued_bytes(fd: int) -> int:
    answer = fcntl.ioctl(fd, termios.FIONREAD, bytes(4))
    return int(struct.unpack("=i", answer)[0])


def _watches(file: OpenFile) -> Iterator[Watch]:
    for line in file.info.lines("inotify "):
        found = _WATCH.match(line)
        if found is None:
            raise file.unsupported(f"this kernel does not name the watched file ({line})")
        number, inode, device, mask, kind, handle = found.groups()
        sdev = int(device, 16)  # the kernel's dev_t: 20 bits of minor
        path = _path(
            file,
            os.makedev(sdev >> 20, sdev & 0xFFFFF),
            int(inode, 16),
            FileHandle(int(kind, 16), bytes.fromhex(handle)),
        )
        yield Watch(
            number=int(number, 16),
            path=path,
            mask=int(mask, 16),
            mounts=file.process.tree.link,
        )


def _path(file: OpenFile, device: int, inode: int, handle: FileHandle) -> bytes:
    tree = file.process.tree
    lines = tree.lines if tree.link else proc.parse_mountinfo(proc.read(os.getpid(), "mountinfo"))
    for mount in (one.point for one in lines if one.device == device):
        try:
            mount_fd = tree.open(mount, os.O_RDONLY)
        except OSError:
            continue  # hidden under another mount
        try:
            fd = syscalls.open_by_handle(mount_fd, handle, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        finally:
            os.close(mount_fd)
        try:
            path = os.readlink(f"/proc/self/fd/{fd}".encode())
        finally:
            os.close(fd)
        if not path.endswith(b" (deleted)"):
            return path
    raise file.unsupported(f"inotify watches inode {inode}, which has no path any more")


# --- restore --------------------------------------------------------------------------------------------------------


def _add(tree: MountTree, fd: int, watch: Watch) -> None:
    try:
        with tree.reach(watch.path, follow=not watch.mask & _DONT_FOLLOW) as path:
            mask = watch.mask if path == watch.path else watch.mask & ~_DONT_FOLLOW
            while (given := syscalls.inotify_add_watch(fd, path, mask)) < watch.number:
                syscalls.inotify_rm_watch(fd, given)
    except OSError as error:
        raise RestoreConflictError(
            f"{watch.path.decode(errors='replace')}, watched by inotify: {error.strerror}; "
            "put it back and restore again",
            error.errno or errno.ENOENT,
        ) from error
    if given != watch.number:
        raise RestoreConflictError(
            f"{watch.path.decode(errors='replace')} is one file with another that inotify watches; "
            "they were two at the checkpoint"
        )


def _forget_events(fd: int) -> None:
    """Take out the IN_IGNORED events of removed watches."""
    try:
        while os.read(fd, _READ_BYTES):
            pass
    except BlockingIOError:
        return
