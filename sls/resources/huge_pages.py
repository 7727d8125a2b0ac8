"""Huge pages: what the inodes and mappings of hugetlbfs want done otherwise.

Not a resource of its own: such an inode is a memfd, anonymous memory or a file (`nameless`), or a System V segment
(`sysv_shm`). No write(2) reaches it, a hole can be told from zeros by nothing, and pages are taken from a pool: who
touches memory that was not reserved while that is empty dies (SIGBUS).
Sources: Documentation/admin-guide/mm/hugetlbpage.rst, mmap(2), memfd_create(2), shmget(2).
"""

import errno
import mmap
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Final

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.ranges import merged
from sls.resources.base import ContentReader
from sls.syscalls import PAGE_BYTES

MAP_HUGETLB: Final = 0x40000
MAP_NORESERVE: Final = 0x4000
_HUGETLBFS_MAGIC: Final = 0x958458F6
_SIZE_SHIFT: Final = 26  # MAP_HUGE_SHIFT, MFD_HUGE_SHIFT, SHM_HUGE_SHIFT


def page_bytes_of(path: str | bytes, status: os.stat_result) -> int:
    """The size of the pages of what is at `path`, if that is of hugetlbfs; else 0."""
    if os.major(status.st_dev) or status.st_blksize <= PAGE_BYTES:
        return 0
    fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        is_huge = syscalls.filesystem_type(fd) == _HUGETLBFS_MAGIC
    finally:
        os.close(fd)
    return status.st_blksize if is_huge else 0


def size_flags(page_bytes: int) -> int:
    """log2 of the size where mmap(2), memfd_create(2) and shmget(2) want it; 0 for pages of the usual size."""
    return (page_bytes.bit_length() - 1) << _SIZE_SHIFT if page_bytes else 0


def rounded(size_bytes: int, page_bytes: int) -> int:
    """Up to whole pages."""
    return -(-size_bytes // page_bytes) * page_bytes


def require_free(wanted: Mapping[int, int]) -> None:
    """RestoreConflictError (ENOMEM) when there are too few. `wanted`: size in bytes → number."""
    for page_bytes, pages in wanted.items():
        if (free := proc.free_huge_pages(page_bytes)) < pages:
            raise _shortage(f"{pages} huge pages of {page_bytes >> 10} kB are needed", free)


def too_few(page_bytes: int) -> RestoreConflictError:
    """The error for a call that found none left."""
    words = f"more huge pages of {page_bytes >> 10} kB are needed"
    return _shortage(words, proc.free_huge_pages(page_bytes))


def _shortage(words: str, free: int) -> RestoreConflictError:
    return RestoreConflictError(
        f"{words}, {free} are free; raise /proc/sys/vm/nr_hugepages and restore again", errno.ENOMEM
    )


def fill(
    contents: ContentReader,
    object_id: int,
    fd: int,
    page_bytes: int,
    ranges: Sequence[tuple[int, int]],
) -> None:
    """Write an object of the generation into an empty file of hugetlbfs that has its size.

    RestoreConflictError (ENOMEM) when there are too few pages. None are reserved: whoever maps it does so.
    """
    pages = merged((start & -page_bytes, rounded(end, page_bytes)) for start, end in ranges)
    try:
        for start, end in pages:
            os.posix_fallocate(fd, start, end - start)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.ENOMEM):
            raise
        os.ftruncate(fd, 0)
        raise too_few(page_bytes) from error
    if not pages:
        return
    flags = mmap.MAP_SHARED | MAP_NORESERVE
    with mmap.mmap(fd, pages[-1][1], flags) as memory, memoryview(memory) as view:
        contents.copy_to(object_id, ranges, partial(_put, view))


def _put(view: memoryview, offset: int, data: memoryview) -> None:
    view[offset : offset + len(data)] = data
