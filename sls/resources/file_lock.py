"""File locks and leases: fcntl(2) and flock(2). fdinfo shows who holds which.

A POSIX lock belongs to the process and the inode, so each process sets its own again; the other kinds belong to the
open file description, so its first holder does. All are taken without waiting: someone else's lock is a conflict.

Not kept: a lock that another has taken meanwhile: the restore is refused.
Kernel: Linux 4.1 (locks in fdinfo).
"""

import enum
import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from sls.errors import RestoreConflictError
from sls.remote import Call, In, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)

_F_SETLK, _F_OFD_SETLK, _F_SETLEASE = 6, 37, 1024
_FLOCK = struct.Struct("=hh4xqqi4x")


class LockKind(enum.Enum):
    """As /proc/locks names them."""

    POSIX = "POSIX"
    FLOCK = "FLOCK"
    OFD = "OFDLCK"
    LEASE = "LEASE"


class FileLock(Record, frozen=True):
    """One lock, taken through `fd`. `length` 0 reaches to the end of the file, however far that moves."""

    fd: int
    kind: LockKind
    is_write: bool
    start: int
    length: int


class FileLocksRecord(ProcessRecord, frozen=True, tag="file-locks"):
    """Locks of one process, and of descriptions that it is the first to hold."""

    locks: tuple[FileLock, ...] = ()


class FileLocks(ProcessState[FileLocksRecord]):
    """Locks and leases."""

    stage = Stage.LINKS
    record = FileLocksRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[FileLocksRecord]:
        yield from ()
        return FileLocksRecord(locks=tuple(_locks(ctx, process)))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: FileLocksRecord
    ) -> Remote[None]:
        replies = yield [_take(lock) for lock in record.locks]
        for lock, reply in zip(record.locks, replies, strict=True):
            if reply.value in (-errno.EAGAIN, -errno.EACCES, -errno.EBUSY):
                path = os.readlink(f"/proc/{process.pid}/fd/{lock.fd}")
                raise RestoreConflictError(
                    f"{path} is locked ({lock.kind.value}) by another process; end it and restore again",
                    errno.EBUSY,
                )
            reply.check()


def _locks(ctx: CaptureContext, process: CapturedProcess) -> Iterator[FileLock]:
    for fd, info in process.infos.items():
        for line in info.lines("lock:"):
            _, _, kind_name, mode, kind_of_access, _, _, start, end = line.split()
            if kind_name not in LockKind._value2member_map_ or mode == "BREAKING":
                raise process.unsupported(
                    f"fd {fd}", f"a {kind_name} that is {mode.lower()} is not supported"
                )
            kind = LockKind(kind_name)
            owner = process.pid if kind is LockKind.POSIX else 0
            file_id = ctx.descriptors[process.pid, fd]
            if ctx.is_first_sight(("lock", owner, file_id, kind, start)):
                yield FileLock(
                    fd=fd,
                    kind=kind,
                    is_write=kind_of_access == "WRITE",
                    start=int(start),
                    length=0 if end == "EOF" else int(end) + 1 - int(start),
                )


def _take(lock: FileLock) -> Call:
    access = fcntl.F_WRLCK if lock.is_write else fcntl.F_RDLCK
    if lock.kind is LockKind.FLOCK:
        return call(
            "flock", lock.fd, (fcntl.LOCK_EX if lock.is_write else fcntl.LOCK_SH) | fcntl.LOCK_NB
        )
    if lock.kind is LockKind.LEASE:
        return call("fcntl", lock.fd, _F_SETLEASE, access)
    command = _F_SETLK if lock.kind is LockKind.POSIX else _F_OFD_SETLK
    return call(
        "fcntl", lock.fd, command, In(_FLOCK.pack(access, os.SEEK_SET, lock.start, lock.length, 0))
    )
