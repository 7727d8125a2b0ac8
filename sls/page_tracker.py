"""Which pages of private memory there are, and which were written since the last look.

Tracking (Linux 6.7): a userfaultfd made inside the task and taken over from there, registered for asynchronous
write-protection; PAGEMAP_SCAN then returns what was written and arms it again in one call. A mapping that is not
registered is new: all its pages count. Where the kernel lacks this, every look counts all pages.

Large populated stretches of anonymous mappings (*dense*) are asked about in the one form that the kernel answers
without looking at each page's struct (fs/proc/task_mmu.c, pagemap_scan_pmd_entry: written pages alone), some ten times
faster. There a page that is gone counts as written, and reads as zeros; that a whole page table is gone, its witness
tells (`sls.page_tables`). Everything else (the *rest*) is asked for its categories too: pages of files are not the
process's own, holes of a sparse mapping must not be armed, for that would cost their page tables. Single-threaded.
"""

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from itertools import count
from typing import Final, NamedTuple

import numpy as np

from sls import proc, syscalls
from sls.errors import TaskDiedError, untraceable
from sls.page_tables import TABLE_BYTES, Witnesses
from sls.proc import VmaLine
from sls.ranges import (
    NOTHING,
    RangeArray,
    Ranges,
    array_bytes,
    as_array,
    as_list,
    coalesced,
    difference,
    intersection,
    merged,
    total_bytes,
)
from sls.remote import Arena, Borrowed, call
from sls.scan_ahead import ScanAhead
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

_DENSE_BYTES: Final = 1 << 20  # a shorter stretch is not worth a call of its own
_DENSE_GAP_BYTES: Final = 1 << 21  # what one page table maps: to arm a hole in it costs no memory
_MANY_BYTES: Final = (
    4 << 20
)  # written at once, in ranges of some length: worth asking which of it is gone
_LONG_BYTES: Final = 1 << 18


class Changes(NamedTuple):
    """What a look found: pages to copy, and pages that were there at the last look and are gone (or zero)."""

    copied: RangeArray
    gone: Ranges


def _open_pagemap(pid: int) -> int:
    try:
        return os.open(f"/proc/{pid}/pagemap", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise TaskDiedError(pid, "opening its pagemap") from error
    except PermissionError as error:
        raise untraceable(pid) from error


def _categories_of_others(pagemap: int) -> int:
    """Categories of pages whose contents are not the process's own."""
    global _not_ours
    if _not_ours is None:
        _not_ours = _NOT_OURS
        try:
            syscalls.scan_regions(pagemap, 0, PAGE_BYTES, returned=PAGE_IS_GUARD)
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
        self._is_fresh = True
        self._dense: Ranges = []  # each within one anonymous mapping
        self._rest: Ranges = []  # pages found outside of them at the last look
        self._vmas: Sequence[VmaLine] = ()  # of the last look, and what is derived from them
        self._spans: Ranges = []
        self._of_files: Ranges = []  # private mappings of files
        self._witnesses = Witnesses()
        self._ahead: ScanAhead | None = None
        # range of the rest → what the kernel said of it, and what came of that
        self._known: dict[tuple[int, int], tuple[bytes, tuple[Ranges, Ranges, Ranges]]] = {}
        self.lack: str = ""  # why there is no tracking, in words

    @property
    def is_tracking(self) -> bool:
        return self._userfaultfd is not None

    @property
    def captured(self) -> Ranges:
        """Pages with contents of their own at the last look; of anonymous memory also some that are zero."""
        return merged([*self._dense, *self._rest])

    @property
    def is_fresh(self) -> bool:
        """Whether nothing was captured yet."""
        return self._is_fresh

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

    # --- looks ---

    def begin_look(self, vmas: Sequence[VmaLine]) -> None:
        """Have the longest part of a `look` done meanwhile, which follows in the same stop; else `abandon_look` does.

        Not where the mappings are others than at the last look, for a stretch of several is armed up to the first that
        is new, and nothing is told of it (-EPERM).
        """
        if vmas is not self._vmas or self._is_fresh or not self.is_tracking or not self._dense:
            return
        self._open()
        presence = self._witnesses.look
        if (
            self._ahead is None
            or self._ahead.stretches != self._dense
            or self._ahead.presence is not presence
        ):
            self._ahead = ScanAhead(self._dense, presence)
        self._ahead.begin(self.pid, self._pagemap)

    def abandon_look(self) -> None:
        """No look has followed: what was written is not known any more, so the next one counts all pages."""
        if self._ahead is not None and self._ahead.is_begun:
            self._ahead.wait()
            self._is_fresh = True

    def _open(self) -> None:
        current = _open_pagemap(self.pid)  # an open one stays with what execve(2) has replaced
        os.close(self._pagemap)
        self._pagemap = current

    def look(self, vmas: Sequence[VmaLine], *, full: bool) -> Changes:
        """Pages to copy now, all of them armed. `vmas`: private mappings, the program's own.

        A full look may be at a running task, if the next one is at a stopped one: arming comes before looking, so what
        is written in between counts as written since.
        """
        if self._ahead is None or not self._ahead.is_begun:
            self._open()
        if full or self._is_fresh or not self.is_tracking:
            return self._look_at_all(vmas)
        return self._look_at_written(vmas)

    def _look_at_all(self, vmas: Sequence[VmaLine]) -> Changes:
        before = self.captured
        self._note(vmas)
        self._arm(vmas)
        populated, _, _ = self._populated(0, _TOP)
        populated = intersection(populated, self._spans)
        self._dense, self._rest = [], populated
        self._is_fresh = False
        self._choose_dense()
        return Changes(as_array(populated), difference(before, populated))

    def _look_at_written(self, vmas: Sequence[VmaLine]) -> Changes:
        before_dense, before_rest = self._dense, self._rest
        scans, absent = self._begun()
        if vmas is not self._vmas:
            self._note(vmas)
            self._dense = self._within_anonymous(self._dense)
        pieces, gone = self._scan_dense(scans, absent)
        rest, populated = self._scan_rest()
        pieces.append(as_array(rest))
        if self._dense != before_dense or populated != before_rest:
            now = merged([*self._dense, *populated])
            gone += difference(merged([*before_dense, *before_rest]), now)
            self._rest = populated
            self._choose_dense()
        pieces = [one for one in pieces if len(one)]
        copied = np.concatenate(pieces) if pieces else NOTHING
        return Changes(copied, merged(gone))

    def look_again(self) -> Changes:
        """What a running task has changed since the last look; new mappings wait for the stop.

        Arming comes first: what it writes to for the first time in between would else be armed and not be copied.
        """
        pieces, gone = self._scan_dense(*self._begun())
        written: Ranges = []
        for start, end in self._gaps():
            armed = self._written(start, end)
            populated, unregistered, _ = self._populated(start, end)
            written += difference(intersection(armed, populated), unregistered)
        self._rest = merged([*self._rest, *written])
        return Changes(np.concatenate([as_array(written), *pieces]), gone)

    def forget(self) -> None:
        """What was captured last did not become a generation: the next look counts all pages."""
        self._is_fresh = True
        self._dense, self._rest = [], []

    def warm_up(self) -> None:
        """Have the kernel walk the page tables of the dense, and arm nothing."""
        for start, end in self._dense:
            syscalls.scan_regions(
                self._pagemap, start, end, all_of=PAGE_IS_WRITTEN, returned=PAGE_IS_WRITTEN
            )

    # --- the dense ---

    def _note(self, vmas: Sequence[VmaLine]) -> None:
        self._vmas = vmas
        self._known.clear()
        self._spans = merged((vma.start, vma.end) for vma in vmas)
        self._of_files = [(vma.start, vma.end) for vma in vmas if vma.inode]

    def _within_anonymous(self, ranges: Ranges) -> Ranges:
        """`ranges` cut to the anonymous mappings: those of several mappings come apart."""
        anonymous = [(vma.start, vma.end) for vma in self._vmas if not vma.inode]
        return intersection(ranges, anonymous)

    def _choose_dense(self) -> None:
        """Move large stretches of anonymous memory from the rest to the dense."""
        if total_bytes(self._rest) < _MANY_BYTES or not self.is_tracking:
            return
        joined = coalesced(self.captured, _DENSE_GAP_BYTES)
        self._dense = [
            (start, end)
            for start, end in self._within_anonymous(joined)
            if end - start >= _DENSE_BYTES
        ]
        self._witnesses.choose(self._dense, self._rest)
        self._rest = difference(self._rest, self._dense)

    def _gaps(self) -> Ranges:
        """Where the dense is not."""
        return difference([(0, _TOP)], self._dense)

    def _begun(self) -> tuple[list[RangeArray | None], Sequence[int] | None]:
        """What `begin_look` has found of each stretch and of the witnesses; nothing where nothing was begun."""
        ahead = self._ahead
        if ahead is None or not ahead.is_begun:
            return [], None
        ahead.wait()
        return ahead.written(), ahead.absent()

    def _scan_dense(
        self, scans: Sequence[RangeArray | None], absent: Sequence[int] | None
    ) -> tuple[list[RangeArray], Ranges]:
        """Pages to copy and pages that are gone; a stretch whose mapping is another one now joins the rest.

        `scans`, `absent`: what was asked before; else it is asked now.
        """
        pieces: list[RangeArray] = []
        gone: Ranges = []
        dense = list(self._dense)
        if absent is None:
            scans = [syscalls.scan_written(self._pagemap, start, end) for start, end in dense]
        for (start, end), written in zip(dense, scans, strict=True):
            if written is None:
                self._dense.remove((start, end))
                continue
            scattered, gone_here = self._without_gone(written)
            pieces.append(scattered)
            gone += gone_here
        if absent is None:
            absent = self._witnesses.look.absent(self.pid)
        for start, end in self._witnesses.missing(absent, self._dense):
            gone += self._look_for_table(start, end)
        return pieces, gone

    def _without_gone(self, written: RangeArray) -> tuple[RangeArray, Ranges]:
        """Written pages of the dense without those of long ranges that are gone, which need no copy; and these.

        Where nothing is, zeros would be copied: it is worth asking only of much that lies together.
        """
        is_long = written[:, 1] - written[:, 0] >= np.uint64(_LONG_BYTES)
        if array_bytes(written[is_long]) <= _MANY_BYTES:
            return written, []
        kept, gone = [written[~is_long]], []
        for start, end in as_list(written[is_long]):
            populated, _, _ = self._populated(start, end)
            kept.append(as_array(populated))
            gone += difference([(start, end)], populated)
        return np.concatenate(kept), gone

    def _look_for_table(self, start: int, end: int) -> Ranges:
        """What is gone of memory whose page table may be. Without a present page it joins the rest."""
        populated, _, _ = self._populated(start, end)
        regions = syscalls.scan_regions(
            self._pagemap, start, end, any_of=PAGE_IS_PRESENT, returned=PAGE_IS_PRESENT
        )
        present = syscalls.as_pages(regions)
        self._witnesses.replace(start & -TABLE_BYTES, present[0].start if present else None)
        if not present:
            self._dense = difference(self._dense, [(start, end)])
        return difference([(start, end)], populated)

    # --- the rest ---

    def _scan_rest(self) -> tuple[Ranges, Ranges]:
        """Pages to copy, and all pages there are, outside of the dense."""
        copied: Ranges = []
        populated: Ranges = []
        for start, end in self._gaps():
            written = self._written(start, end)
            found, unregistered, unsure = self._own(start, end)
            copied += merged([*intersection(written, found), *unregistered, *unsure])
            populated += found
            if unregistered:
                self._arm([vma for vma in self._vmas if intersection(unregistered, [vma[:2]])])
        return copied, populated

    def _own(self, start: int, end: int) -> tuple[Ranges, Ranges, Ranges]:
        """`_populated` within the mappings; of the absent ones those of files. Mostly the same as at the last look."""
        regions = self._scan_populated(start, end)
        key = (start, end)
        known = self._known.get(key)
        if known is None or known[0] != regions:
            found, unregistered, absent = _sorted_out(regions)
            told = (
                intersection(found, self._spans),
                intersection(unregistered, self._spans),
                intersection(absent, self._of_files),
            )
            known = self._known[key] = (regions, told)
        return known[1]

    def _populated(self, start: int, end: int) -> tuple[Ranges, Ranges, Ranges]:
        """Pages with contents of their own; those of them in mappings that are not registered; and the absent ones.

        Absent pages of a file's mapping may be swapped out, or have been dropped after they were armed: the kernel
        leaves a marker then, which looks the same (mm/memory.c, zap_install_uffd_wp_if_needed).
        """
        return _sorted_out(self._scan_populated(start, end))

    def _scan_populated(self, start: int, end: int) -> bytes:
        other = _categories_of_others(self._pagemap)
        return syscalls.scan_regions(
            self._pagemap, start, end, inverted=other, all_of=other, any_of=_POPULATED,
            returned=PAGE_IS_WPALLOWED | PAGE_IS_PRESENT,
        )  # fmt: skip

    def _written(self, start: int, end: int) -> Ranges:
        """What was written, armed again. Only pages that are there: to arm a hole of 100 GiB costs its page tables.

        A page that comes to be later is not armed, and so counts as written.
        """
        regions = syscalls.scan_regions(
            self._pagemap, start, end,
            all_of=PAGE_IS_WPALLOWED | PAGE_IS_WRITTEN, any_of=_POPULATED, returned=PAGE_IS_WRITTEN,
            write_protect=True,
        )  # fmt: skip
        return merged((one.start, one.end) for one in syscalls.as_pages(regions))

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
        for vma in vmas:
            self._written(vma.start, vma.end)

    # --- the end ---

    def close(self) -> None:
        """End tracking for good."""
        os.close(self._pagemap)
        self.stop()

    def stop(self) -> None:
        """End tracking; the kernel drops the registration with the descriptor."""
        self.forget()
        if self._userfaultfd is not None:
            os.close(self._userfaultfd)
            self._userfaultfd = None


def _sorted_out(regions: bytes) -> tuple[Ranges, Ranges, Ranges]:
    """All of the regions, those of mappings that are not registered, and the absent ones."""
    found = syscalls.as_pages(regions)
    populated = merged((one.start, one.end) for one in found)
    new = merged((one.start, one.end) for one in found if not one.categories & PAGE_IS_WPALLOWED)
    absent = [(one.start, one.end) for one in found if not one.categories & PAGE_IS_PRESENT]
    return populated, new, absent
