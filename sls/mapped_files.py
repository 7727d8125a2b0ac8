"""What captured processes had mapped and the machine still has: files, if unchanged, and the kernel's vdso.

Files are read with a user's rights. The path comes from an image, and whoever owns the image may have put another file
there since: so it is opened with the rights of that owner, and must have the size and time that it had.
"""

import os
from functools import cache

from sls import proc, syscalls
from sls.resources.memory import FileVersion


class MappedFiles:
    """Files as `uid` and `gid` may read them. Keeps nothing open; any thread."""

    def __init__(self, uid: int, gid: int) -> None:
        self._uid = uid
        self._gid = gid

    def is_same(self, version: FileVersion) -> bool:
        """Whether the file is still that version, and readable."""
        fd = self._open(version)
        if fd is None:
            return False
        os.close(fd)
        return True

    def read(self, version: FileVersion, offset: int, length: int) -> bytes | None:
        """Bytes of the file, short at its end; None when it is gone, changed or not to be read."""
        fd = self._open(version)
        if fd is None:
            return None
        try:
            return os.pread(fd, length, offset)
        except OSError:
            return None
        finally:
            os.close(fd)

    def _open(self, version: FileVersion) -> int | None:
        if version.mounts:
            return None  # of a namespace that the program has for itself
        # O_NONBLOCK: a FIFO that took the file's place must not hold this thread.
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
        try:
            with syscalls.acting_as(self._uid, self._gid):
                fd = os.open(version.path, flags)
        except OSError:
            return None
        stat = os.fstat(fd)
        if (stat.st_size, stat.st_mtime_ns) == (version.size_bytes, version.mtime_ns):
            return fd
        os.close(fd)
        return None


@cache
def running_vdso() -> bytes:
    """The vdso of the running kernel, the same in every process; empty where there is none."""
    for vma in proc.parse_maps(proc.read(os.getpid(), "maps")):
        if vma.name == b"[vdso]":
            return syscalls.read_memory(os.getpid(), vma.start, vma.length)
    return b""
