"""Contents of private memory: which pages there are, which were written since the last look, and their copy.

Tracking (Linux 6.7): a userfaultfd made inside the task and taken over from there, registered for asynchronous
write-protection; PAGEMAP_SCAN then returns what was written and arms it again in one call. A mapping that is not
registered is new: all its pages count. Where the kernel lacks this, every look counts all pages. Ranges are address
pairs [start, end), ascending, page-aligned. Single-threaded.
"""

import errno
import mmap
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

from sls import proc, syscalls
from sls.errors import TaskDiedError
from sls.proc import VmaLine
from sls.remote import Arena, Borrowed, call
from sls.syscalls import (
    PAGE_BYTES,
    PAGE_IS_FILE,
    PAGE_IS_GUARD,
    PAGE_IS_PFNZERO,
    PAGE_IS_PRESENT,
    PAGE_IS_SWAPPED,
    PAGE_IS_WPALLOWED,
    PAGE_IS_WRITTEN,
)

_TOP: Final = (1 << 47) - PAGE_BYTES
_UFFD_USER_MODE_ONLY: Final = 1
_FEATURES: Final = (
    syscalls.UFFD_FEATURE_PAGEFAULT_FLAG_WP
    | syscalls.UFFD_FEATURE_WP_HUGETLBFS_SHMEM
    | syscalls.UFFD_FEATURE_WP_UNPOPULATED
    | syscalls.UFFD_FEATURE_WP_ASYNC
)
_POPULATED: Final = PAGE_IS_PRESENT | PAGE_IS_SWAPPED
_NOT_OURS: Final = PAGE_IS_FILE | PAGE_IS_PFNZERO
_not_ours: int | None = None  # and guard pages, where the kernel tells them

Ranges = list[tuple[int, int]]


# --- sets of addresses ----------------------------------------------------------------------------------------------


def merged(ranges: Iterable[tuple[int, int]]) -> Ranges:
    """Adjacent and overlapping ranges joined; sorts."""
    result: Ranges = []
    for start, end in sorted(ranges):
        if result and start <= result[-1][1]:
            result[-1] = (result[-1][0], max(end, result[-1][1]))
        else:
            result.append((start, end))
    return result


def intersection(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> Ranges:
    """What is in both; each argument ascending and disjoint."""
    result: Ranges = []
    i = j = 0
    while i < len(left) and j < len(right):
        start, end = max(left[i][0], right[j][0]), min(left[i][1], right[j][1])
        if start < end:
            result.append((start, end))
        if left[i][1] < right[j][1]:
            i += 1
        else:
            j += 1
    return result


def difference(left: Sequence[tuple[int, int]], right: Sequence[tuple[int, int]]) -> Ranges:
    """What is in `left` and not in `right`; each ascending and disjoint."""
    result: Ranges = []
    j = 0
    for start, end in left:
        while j < len(right) and right[j][1] <= start:
            j += 1
        position, k = start, j
        while k < len(right) and right[k][0] < end:
            if right[k][0] > position:
                result.append((position, right[k][0]))
            position = max(position, right[k][1])
            k += 1
        if position < end:
            result.append((position, end))
    return result


def total_bytes(ranges: Iterable[tuple[int, int]]) -> int:
    """Length of all ranges together."""
    return sum(end - start for start, end in ranges)


# --- which pages ----------------------------------------------------------------------------------------------------


class Changes(NamedTuple):
    """What a look found: pages to copy, and pages that were there at the last look and are gone (or zero)."""

    copied: Ranges
    gone: Ranges


def _open_pagemap(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, "opening its pagemap") from error


def _categories_of_others(pagemap: int) -> int:
    """Categories of pages whose contents are not the process's own."""
    global _not_ours
    if _not_ours is None:
        _not_ours = _NOT_OURS
        try:
            syscalls.scan_pages(pagemap, 0, PAGE_BYTES, returned=PAGE_IS_GUARD)
            _not_ours |= PAGE_IS_GUARD
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
    return _not_ours


class PageTracker:
    """Knows, for one address space, what was captured last and what was written since."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._pagemap = _open_pagemap(pid)
        self._userfaultfd: int | None = None
        self._captured: Ranges | None = None
        self.lack: str = ""  # why there is no tracking, in words

    @property
    def is_tracking(self) -> bool:
        return self._userfaultfd is not None

    @property
    def captured(self) -> Ranges:
        """Pages with contents of their own at the last look."""
        return self._captured or []

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was captured yet."""
        return self._captured is None

    def start(self, thread: Borrowed, arena: Arena, pidfd: int) -> None:
        """Make the userfaultfd inside the task and take it over. Leaves `lack` when the kernel has none of that.

        One table makes it, stops, and closes it, so that it is closed also when we die meanwhile: its number is known,
        the lowest that is free.
        """
        used = set(proc.entries(thread.tid, "fd"))
        number = next(fd for fd in count() if fd not in used)
        taken: list[int] = []

        def take() -> None:
            with suppress(OSError):  # there is none; the reply tells why
                taken.append(syscalls.pidfd_getfd(pidfd, number))

        flags = os.O_CLOEXEC | os.O_NONBLOCK | _UFFD_USER_MODE_ONLY
        calls = [call("userfaultfd", flags), thread.stop_call(), call("close", number)]
        made = arena.run(thread, calls, take)[0]
        if made.failed or not taken:
            self.lack = f"userfaultfd: {os.strerror(-made.value)}"
            return
        fd = taken[0]
        try:
            syscalls.userfaultfd_api(fd, _FEATURES)
        except OSError as error:
            os.close(fd)
            self.lack = f"userfaultfd without asynchronous write-protection: {error.strerror}"
            return
        self._userfaultfd = fd

    def look(self, vmas: Sequence[VmaLine], *, full: bool) -> Changes:
        """Pages to copy now, all of them armed. `vmas`: private mappings, the program's own.

        A full look may be at a running task, if the next one is at a stopped one: arming comes before looking, so what
        is written in between counts as written since.
        """
        os.close(
            self._pagemap
        )  # an open one stays with the address space that execve(2) has replaced
        self._pagemap = _open_pagemap(self.pid)
        spans = merged((vma.start, vma.end) for vma in vmas)
        if full or self._captured is None or not self.is_tracking:
            self._arm(vmas)
            populated, _ = self._populated(spans)
            changes = Changes(populated, difference(self._captured or [], populated))
        else:
            written = self._written()
            populated, unregistered = self._populated(spans)
            copied = merged([*intersection(written, populated), *unregistered])
            changes = Changes(copied, difference(self._captured, populated))
            if unregistered:
                self._arm(vmas)
        self._captured = populated
        return changes

    def look_again(self) -> Ranges:
        """Pages of a running task that were written since the last look; new mappings wait for the stop."""
        assert self._captured is not None
        written = self._written()
        populated, unregistered = self._populated([(0, _TOP)])
        copied = difference(intersection(written, populated), unregistered)
        self._captured = merged([*self._captured, *copied])
        return copied

    def forget(self) -> None:
        """What was captured last did not become a generation: the next look counts all pages."""
        self._captured = None

    def _populated(self, spans: Sequence[tuple[int, int]]) -> tuple[Ranges, Ranges]:
        """Pages with contents of their own within `spans`, and those of them in mappings that are not registered."""
        other = _categories_of_others(self._pagemap)
        found = syscalls.scan_pages(
            self._pagemap, 0, _TOP,
            inverted=other, all_of=other, any_of=_POPULATED, returned=PAGE_IS_WPALLOWED,
        )  # fmt: skip
        populated = intersection(merged((one.start, one.end) for one in found), spans)
        new = merged(
            (one.start, one.end) for one in found if not one.categories & PAGE_IS_WPALLOWED
        )
        return populated, intersection(new, spans)

    def _written(self) -> Ranges:
        """What was written, armed again. Only pages that are there: to arm a hole of 100 GiB costs its page tables.

        A page that comes to be later is not armed, and so counts as written.
        """
        found = syscalls.scan_pages(
            self._pagemap, 0, _TOP,
            all_of=PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN, any_of=_POPULATED, returned=PAGE_IS_WRITTEN,
            write_protect=True,
        )  # fmt: skip
        return merged((one.start, one.end) for one in found)

    def _arm(self, vmas: Sequence[VmaLine]) -> None:
        if self._userfaultfd is None:
            return
        for vma in vmas:
            try:
                syscalls.userfaultfd_register_wp(self._userfaultfd, vma.start, vma.length)
            except OSError as error:
                # the address space that was watched has ended by execve(2): ENOMEM, fs/userfaultfd.c
                if error.errno in (errno.ESRCH, errno.ENOMEM):
                    os.close(self._userfaultfd)
                    self._userfaultfd = None
                    return
                if error.errno not in (errno.EINVAL, errno.EPERM, errno.EBUSY):
                    raise  # these three: a mapping that cannot be watched; it stays new at each look
        self._written()

    def close(self) -> None:
        """End tracking for good."""
        os.close(self._pagemap)
        self.stop()

    def stop(self) -> None:
        """End tracking; the kernel drops the registration with the descriptor."""
        self._captured = None
        if self._userfaultfd is not None:
            os.close(self._userfaultfd)
            self._userfaultfd = None


# --- copies ---------------------------------------------------------------------------------------------------------


class CopyBuffer:
    """A memfd that grows, mapped here and, by whoever gets its descriptor, elsewhere. Filled front to back."""

    def __init__(self, size_bytes: int = 1 << 24) -> None:
        self.fd = os.memfd_create("sls-copy", os.MFD_CLOEXEC)
        self.used = 0
        self._map(size_bytes)

    def _map(self, size_bytes: int) -> None:
        os.ftruncate(self.fd, size_bytes)
        # populated: first touches would otherwise cost most of a copy, inside the stop
        flags = mmap.MAP_SHARED | mmap.MAP_POPULATE
        self._memory = mmap.mmap(self.fd, size_bytes, flags)
        self._array: syscalls.SharedArray = syscalls.shared_array(memoryview(self._memory))

    def reserve(self, size_bytes: int) -> int:
        """Room for `size_bytes`; returns its offset."""
        offset = self.used
        if offset + size_bytes > len(self._memory):
            old = self._memory
            self._map(max(2 * len(old), (offset + size_bytes + mmap.PAGESIZE) & -mmap.PAGESIZE))
        self.used = offset + size_bytes
        return offset

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """The memory itself; do not keep it beyond the next `reserve`."""
        return memoryview(self._memory)[offset : offset + size_bytes]

    def copy_ranges(self, pid: int, memory_fd: int, ranges: Sequence[tuple[int, int]]) -> int:
        """Copy memory of `pid`, packed; returns the offset of the first byte."""
        offset = self.reserve(total_bytes(ranges))
        done = 0
        vectors = [(start, end - start) for start, end in ranges]
        while vectors:
            moved = self._copy_readable(pid, vectors, offset + done)
            done += moved
            vectors = _skipped(vectors, moved)
            if vectors:  # a range that its owner may not read: the debugger's way, which may
                address, length = vectors[0]
                piece = min(length, 1 << 20)
                count = os.preadv(memory_fd, [self.view(offset + done, piece)], address)
                done += count
                vectors = _skipped(vectors, count)
        return offset

    def _copy_readable(self, pid: int, vectors: list[tuple[int, int]], offset: int) -> int:
        try:
            return syscalls.read_memory_into(pid, vectors, self._array, offset)
        except OSError as error:
            if error.errno != errno.EFAULT:
                raise
            return 0

    def clear(self) -> None:
        """Start over; what a large copy took beyond 64 MiB goes back to the system."""
        self.used = 0
        if len(self._memory) > 1 << 26:
            os.ftruncate(self.fd, 0)
            self._map(1 << 24)

    def close(self) -> None:
        os.close(self.fd)


def _skipped(vectors: list[tuple[int, int]], moved: int) -> list[tuple[int, int]]:
    """`vectors` without their first `moved` bytes."""
    for index, (address, length) in enumerate(vectors):
        if moved < length:
            return [(address + moved, length - moved), *vectors[index + 1 :]]
        moved -= length
    return []
