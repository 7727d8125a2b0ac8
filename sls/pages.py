"""Copies of another process's pages, in memory that a third one shares. Knows no tracking. Single-threaded."""

import errno
import mmap
import os
from functools import partial
from typing import Final

from sls import proc, syscalls
from sls.errors import WorkerError
from sls.helper import run_both
from sls.ranges import RangeArray, Ranges, array_bytes, as_array, as_list, halves

SHARED_BYTES: Final = 2 << 20  # less is copied before a second thread has begun


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
            try:
                self._map(max(2 * len(old), (offset + size_bytes + mmap.PAGESIZE) & -mmap.PAGESIZE))
            except OSError as error:
                os.ftruncate(self.fd, len(old))
                refused = WorkerError(
                    f"there is no memory for a copy of {size_bytes >> 20} MiB; free some and try again"
                )
                refused.errno = error.errno or errno.ENOMEM
                raise refused from error
        self.used = offset + size_bytes
        return offset

    def view(self, offset: int, size_bytes: int) -> memoryview:
        """The memory itself; do not keep it beyond the next `reserve`."""
        return memoryview(self._memory)[offset : offset + size_bytes]

    def copy_ranges(self, pid: int, ranges: RangeArray) -> int:
        """Copy memory of `pid`, packed; returns the offset of the first byte."""
        wanted = array_bytes(ranges)
        offset = self.reserve(wanted)
        if wanted < SHARED_BYTES:
            self._copy(pid, ranges, offset)
            return offset
        one, other = halves(ranges)
        middle = offset + array_bytes(one)
        run_both(partial(self._copy, pid, one, offset), partial(self._copy, pid, other, middle))
        return offset

    def _copy(self, pid: int, ranges: RangeArray, offset: int) -> None:
        wanted = array_bytes(ranges)
        done = _copy_readable(pid, ranges, self._array, offset)
        if done < wanted:
            self._copy_unreadable(pid, _skipped(as_list(ranges), done), offset + done)

    def _copy_unreadable(self, pid: int, ranges: Ranges, offset: int) -> None:
        """Copy ranges of which some may not be read by their owner: the debugger's way, which may."""
        memory = proc.open_memory(pid)
        try:
            for start, end in ranges:
                while start < end:
                    piece = self.view(offset, min(end - start, 1 << 20))
                    done = os.preadv(memory, [piece], start)
                    start, offset = start + done, offset + done  # noqa: PLW2901
        finally:
            os.close(memory)

    def clear(self, *, keep: bool = False) -> None:
        """Start over; what a large copy took beyond 64 MiB goes back to the system.

        With `keep` only if little of it was needed: to have it anew in the next stop takes longer than the copy.
        """
        is_needed = keep and 4 * self.used > len(self._memory)
        self.used = 0
        if len(self._memory) > 1 << 26 and not is_needed:
            os.ftruncate(self.fd, 0)
            self._map(1 << 24)

    def close(self) -> None:
        os.close(self.fd)


def copy_running(pid: int, ranges: RangeArray, view: memoryview) -> None:
    """Copy memory of a task that runs, packed. What it has unmapped meanwhile is zeros: the look after this one tells.

    Raises TaskDiedError.
    """
    array = syscalls.shared_array(view)
    done = _copy_readable(pid, ranges, array, 0)
    while done < len(view):
        left = _skipped(as_list(ranges), done)
        start, end = left[0]
        done = _copy_or_clear(pid, start, view[done : done + end - start]) + done
        done += _copy_readable(pid, as_array(left[1:]), array, done)


def _copy_readable(pid: int, ranges: RangeArray, array: syscalls.SharedArray, offset: int) -> int:
    try:
        return syscalls.read_ranges_into(pid, ranges, array, offset)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return 0


def _copy_or_clear(pid: int, start: int, view: memoryview) -> int:
    """Copy the debugger's way, page after page; zeros for those that are not there. All of the view's bytes."""
    memory = proc.open_memory(pid)
    try:
        for at in range(0, len(view), syscalls.PAGE_BYTES):
            page = view[at : at + syscalls.PAGE_BYTES]
            try:
                done = os.preadv(memory, [page], start + at)
            except OSError as error:
                if error.errno not in (errno.EIO, errno.EFAULT):
                    raise
                done = 0
            if done < len(page):
                page[:] = bytes(len(page))
    finally:
        os.close(memory)
    return len(view)


def _skipped(ranges: Ranges, moved: int) -> Ranges:
    """`ranges` without their first `moved` bytes."""
    for index, (start, end) in enumerate(ranges):
        if moved < end - start:
            return [(start + moved, end), *ranges[index + 1 :]]
        moved -= end - start
    return []
