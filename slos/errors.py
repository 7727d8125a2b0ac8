"""What can go wrong in a store.

    SlosError
    ├── StoreFormatError      the file is not a store this version can read
    ├── CorruptObjectError    a checksum or a reference is wrong: names generation and offset
    ├── ObjectNotFoundError   no such partition, generation or object
    ├── ObjectExistsError     the partition or the store is there already
    ├── StoreFullError        no space; what was committed before is intact
    ├── StoreBusyError        another process holds the store
    ├── ReadOnlyStoreError    opened read-only, or gone read-only after a failed fdatasync
    ├── StoreDeviceError      the kernel reported an I/O error on the file
    └── InvalidRequestError   the caller asked for what cannot be

Every class carries `errno` and `exit_status`; the message says who is to blame and what to do.
"""

import errno
from typing import ClassVar


class SlosError(Exception):
    """Anything a store refuses or fails at."""

    errno: int = errno.EIO
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str, *, oid: int = 0, generation: int = 0, offset: int = -1):
        super().__init__(message)
        self.oid = oid
        self.generation = generation
        self.offset = offset


class StoreFormatError(SlosError):
    """The file is no store, a damaged one, or one of another version."""

    errno = errno.EMEDIUMTYPE


class CorruptObjectError(SlosError):
    """Bytes on the device do not match their checksum or their reference."""

    errno = errno.EIO


class ObjectNotFoundError(SlosError):
    """No such partition, generation or object."""

    errno = errno.ENOENT


class ObjectExistsError(SlosError):
    """A partition or a store is in the way."""

    errno = errno.EEXIST


class StoreFullError(SlosError):
    """The file system, its quota or the store's size limit has no room."""

    errno = errno.ENOSPC


class StoreBusyError(SlosError):
    """Another opener holds the store; `holder_pid` is 0 where it cannot be found."""

    errno = errno.EBUSY

    def __init__(self, message: str, *, holder_pid: int = 0):
        super().__init__(message)
        self.holder_pid = holder_pid


class ReadOnlyStoreError(SlosError):
    """The store takes no writes."""

    errno = errno.EROFS


class StoreDeviceError(SlosError):
    """A system call on the store's file failed; `errno` is the kernel's."""

    def __init__(self, message: str, *, errno: int, offset: int = -1):
        super().__init__(message, offset=offset)
        self.errno = errno


class InvalidRequestError(SlosError):
    """The caller's arguments make no sense."""

    errno = errno.EINVAL


FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_PATH_ERRNOS = frozenset(
    {
        errno.ENOENT,
        errno.ENOTDIR,
        errno.EISDIR,
        errno.ELOOP,
        errno.ENAMETOOLONG,
        errno.EACCES,
        errno.EPERM,
    }
)


def device_error(error: OSError, doing: str, offset: int = -1) -> SlosError:
    """The store's error for a failed system call on its file."""
    number = error.errno or errno.EIO
    reason = error.strerror or str(error)
    if number in FULL_ERRNOS:
        return StoreFullError(
            f"{doing}: {reason}; free space on the store's file system or delete generations",
            offset=offset,
        )
    if number == errno.EROFS:
        return ReadOnlyStoreError(
            f"{doing}: {reason}; remount the store's file system read-write", offset=offset
        )
    advice = "check the device below the store (dmesg), then run slsctl fsck"
    if number in _PATH_ERRNOS:
        advice = "check the store's path and permissions"
    return StoreDeviceError(
        f"{doing}: {reason}; {advice}",
        errno=number,
        offset=offset,
    )
