"""The store's file: the only place where slos opens, reads, writes or syncs.

Knows bytes at offsets. Raises OSError; callers turn it into the store's errors. Faults are
injected here: tests pass another `Device`. Safe for several threads (positional calls only).
"""

import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from typing import Protocol

from slos.store import PAGE_BYTES

_IOV_MAX = 1024
_WRITE_BEHIND_BYTES = 1 << 20
# Documented in xfsctl(3); the VFS maps it to fallocate(FALLOC_FL_PUNCH_HOLE | KEEP_SIZE) for
# every file system (fs/ioctl.c, Linux 5.5). Python's os module has no fallocate with a mode.
_FS_IOC_UNRESVSP64 = 0x4030582B
_SPACE = struct.Struct("<hhxxxxqqiI16x")


class Device(Protocol):
    """Bytes that may last. `sync` returns only when what was written before will."""

    def read(self, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer only at the end of the file."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill the buffer; the number of bytes, fewer only at the end of the file."""

    def is_cached(self, offset: int) -> bool:
        """Whether the byte there can be had without waiting for the disk, as far as is known."""

    def expect(self, offset: int, length: int) -> None:
        """These bytes will be read soon. May do nothing."""

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        """Write the parts one after the other; all of them, or OSError."""

    def sync(self) -> None:
        """fdatasync(2)."""

    def reserve(self, offset: int, length: int) -> None:
        """Claim blocks for a range, so that writing there cannot meet a full disk."""

    def punch(self, offset: int, length: int) -> None:
        """Give the blocks of a range back; it reads as zeros. May do nothing."""

    def truncate(self, size: int) -> None:
        """Set the file's length."""

    def size(self) -> int:
        """The file's length."""

    def allocated(self) -> int:
        """Bytes of blocks that the file takes."""

    def close(self) -> None:
        """Let the file and its lock go."""


class FileDevice:
    """A regular file (or block device) under an exclusive lock."""

    def __init__(self, path: str | os.PathLike[str], *, read_only: bool = False):
        self.path = os.fspath(path)
        flags = os.O_RDONLY if read_only else os.O_RDWR
        self._fd = os.open(path, flags | os.O_CLOEXEC)
        # The bytes (start, end) written last whose way to the disk has not begun.
        self._waiting = (0, 0)
        try:
            # A shared lock for readers: they exclude the writer, not one another.
            kind = fcntl.LOCK_SH if read_only else fcntl.LOCK_EX
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except OSError:
            os.close(self._fd)
            raise

    def read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if not data or len(data) == length:
            return data
        parts = [data]
        have = len(data)
        while have < length:
            part = os.pread(self._fd, length - have, offset + have)
            if not part:
                break
            parts.append(part)
            have += len(part)
        return b"".join(parts)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        have = 0
        while have < len(buffer):
            count = os.preadv(self._fd, [buffer[have:]], offset + have)
            if not count:
                break
            have += count
        return have

    def is_cached(self, offset: int) -> bool:
        try:
            # RWF_NOWAIT, preadv2(2): EAGAIN where the page cache does not hold it.
            os.preadv(self._fd, [bytearray(1)], offset, os.RWF_NOWAIT)
        except OSError:
            return False
        return True

    def expect(self, offset: int, length: int) -> None:
        os.posix_fadvise(self._fd, offset, length, os.POSIX_FADV_WILLNEED)

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        for start in range(0, len(parts), _IOV_MAX):
            group = parts[start : start + _IOV_MAX]
            while group:
                written = os.pwritev(self._fd, group, offset)
                if written == 0:
                    raise OSError(errno.EIO, "pwritev wrote nothing")
                self._write_behind(offset, offset + written)
                offset += written
                group = _drop(group, written)

    def _write_behind(self, start: int, end: int) -> None:
        """Start writing back now what a later fdatasync would wait for.

        Nothing is dropped from the page cache: the pages are dirty (mm/fadvise.c).
        """
        first, last = self._waiting
        if start != last:
            if last > first:
                os.posix_fadvise(self._fd, first, last - first, os.POSIX_FADV_DONTNEED)
            first = start
        whole = end // PAGE_BYTES * PAGE_BYTES  # The next write goes on in the last page.
        if whole - first >= _WRITE_BEHIND_BYTES:
            os.posix_fadvise(self._fd, first, whole - first, os.POSIX_FADV_DONTNEED)
            first = whole
        self._waiting = (first, end)

    def sync(self) -> None:
        self._waiting = (0, 0)
        os.fdatasync(self._fd)
        if os.fstat(self._fd).st_nlink == 0:
            raise OSError(errno.ESTALE, "the store's file was deleted")

    def reserve(self, offset: int, length: int) -> None:
        os.posix_fallocate(self._fd, offset, length)

    def punch(self, offset: int, length: int) -> None:
        try:
            fcntl.ioctl(self._fd, _FS_IOC_UNRESVSP64, _SPACE.pack(0, 0, offset, length, 0, 0))
        except OSError as error:
            # File systems without holes keep the blocks; the store reuses them itself.
            if error.errno not in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL):
                raise

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def size(self) -> int:
        return os.lseek(self._fd, 0, os.SEEK_END)

    def allocated(self) -> int:
        return os.fstat(self._fd).st_blocks * 512

    def close(self) -> None:
        os.close(self._fd)


def _drop(parts: Sequence[bytes | memoryview], count: int) -> Sequence[bytes | memoryview]:
    """The parts without their first `count` bytes."""
    if count == sum(map(len, parts)):
        return []
    for index, part in enumerate(parts):
        if count < len(part):
            return [memoryview(part)[count:], *parts[index + 1 :]]
        count -= len(part)
    return []


def create_file(path: str | os.PathLike[str], parts: Sequence[tuple[int, bytes]]) -> None:
    """A new file with these bytes at these offsets, durable with its name; never overwrites."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        for offset, data in parts:
            os.pwrite(fd, data, offset)
        os.fsync(fd)
        _sync_directory(os.path.dirname(os.fspath(path)) or ".")
    except BaseException:
        # Also on Ctrl-C: what is half made would be in the way of the next attempt.
        os.unlink(path)
        raise
    finally:
        os.close(fd)


def _sync_directory(path: str) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def lock_holder(path: str | os.PathLike[str]) -> int:
    """Pid of a process that holds the file's flock(2), 0 where the kernel does not tell."""
    inode = os.stat(path).st_ino
    try:
        with open("/proc/locks", encoding="ascii") as locks:
            lines = locks.read().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5].endswith(f":{inode}"):
            return int(words[4])
    return 0
