"""One stop of a partition: every process with its arena, its threads borrowed, its pages looked at and copied.

Knows no resource. What is remembered of a process from stop to stop is a `Member`. Single-threaded.
"""

from collections.abc import Callable, Container, Sequence
from contextlib import ExitStack
from functools import partial
from typing import NamedTuple

from sls import proc
from sls.errors import TaskDiedError
from sls.freeze import Frozen, FrozenThread
from sls.helper import run_both
from sls.observations import Observations
from sls.page_tracker import PageTracker
from sls.pages import SHARED_BYTES, CopyBuffer
from sls.proc import VmaLine
from sls.ranges import (
    RangeArray,
    Ranges,
    as_array,
    as_list,
    difference,
    halves,
    total_bytes,
)
from sls.remote import (
    ARENA_BYTES,
    LANES,
    Arena,
    Borrowed,
    Call,
    Reply,
    Started,
    find_hole,
    quiet_signal,
    remove_abandoned,
)
from sls.resources import CapturedProcess, Content, Memo, MemorySource
from sls.rseq import leave_sequence
from sls.sharing import refuse_foreign, refuse_shared, refuse_unshared
from sls.syscalls import PAGE_BYTES

Shape = tuple[object, ...]
_Pairs = list[tuple[CapturedProcess, FrozenThread]]


class CapturedObject(NamedTuple):
    """Bytes of one object of the generation: `ranges` packed in the buffer from `offset`; `gone` become holes."""

    object_id: int
    offset: int
    ranges: RangeArray
    gone: Ranges


class Member:
    """What is remembered of one process between captures."""

    def __init__(self, tid: int, start_time: int, object_id: int) -> None:
        self.start_time = start_time
        self.object_id = object_id
        self.tracker = PageTracker(tid)
        self.memo = Memo()
        self.looks = Observations()
        self.shape: Shape = ()  # of the last capture, `Session.shape`
        self.arena: Arena | None = None  # one that stays in the process between captures

    def close(self) -> None:
        self.tracker.close()
        if self.arena is not None:
            self.arena.close()


class Session:
    """Processes that stand still, ready to be asked. Cleanup goes through the caller's ExitStack.

    `stay`: the arenas stay in the processes, for the next stop. `is_noted`: what is asked is asked again then.
    `is_of_changes`: `copy_memory` follows, of what has changed, which is looked for from the beginning.
    """

    def __init__(
        self,
        find_member: Callable[[int, int, int], Member],
        frozen: Frozen,
        cleanup: ExitStack,
        *,
        track: bool,
        stay: bool,
        is_noted: bool = True,
        is_of_changes: bool = False,
    ) -> None:
        self._find_member = find_member
        self._cleanup = cleanup
        self._frozen = frozen
        self._stay = stay
        self._is_noted = is_noted
        self._is_of_changes = is_of_changes
        self.pids = sorted(frozen.processes)
        self.zombies = sorted(frozen.zombies)
        self.processes: list[CapturedProcess] = []
        self.members: dict[int, Member] = {}
        self._threads: dict[int, Borrowed] = {}
        self._at_work: dict[tuple[int, int], Borrowed] = {}  # (pid, lane) → who ran last there
        refuse_shared(frozen.processes.values())
        for pid in self._tree_order():
            self._prepare(pid, track)

    def _tree_order(self) -> list[int]:
        """Parents before children."""
        if len(self.pids) == 1:
            return self.pids
        parents = {pid: proc.stat(pid).ppid for pid in self.pids}

        def depth(pid: int) -> int:
            return 1 + depth(parents[pid]) if parents.get(pid) in parents else 0

        return sorted(self.pids, key=lambda pid: (depth(pid), pid))

    def _prepare(self, pid: int, track: bool) -> None:
        frozen = self._frozen.processes[pid]
        stat = proc.reread(pid, "stat")
        member = self._find_member(pid, frozen.leader.tid, proc.start_time_in(pid, stat))
        self.members[pid] = member
        member.tracker.pid = frozen.leader.tid  # another thread's, once the leader has ended
        process = CapturedProcess(
            frozen, member.object_id, member.memo,
            member.looks if self._is_noted else Observations(), stat,
            is_tracked=member.tracker.is_tracking,
        )  # fmt: skip
        self._cleanup.callback(process.close)
        if self._is_of_changes:
            self._begin_look(process)
        refuse_unshared(process)
        refuse_foreign(process)
        stop_signal = quiet_signal(process.status)
        own_pid = proc.numbers_below(process.status).process[-1:]
        for thread in frozen.threads.values():
            leave_sequence(thread)
            switches = int(process.status_of(thread.tid)["voluntary_ctxt_switches"])
            self._frozen.confirm_sleep(thread, switches)
            numbers = (own_pid[0], _own_number(process, thread.tid)) if own_pid else None
            borrowed = Borrowed(
                pid, thread.tid, thread.registers, thread.sigmask, stop_signal, numbers
            )
            self._threads[thread.tid] = borrowed
        leader = self._threads[frozen.leader.tid]
        if member.arena is None:
            places = [thread.registers.rip for thread in frozen.threads.values()]
            if remove_abandoned(leader, process.maps, places):
                process.read_maps()
        process.arena = self._arena(process, member, leader)
        self._cleanup.callback(self._give_back, process)
        self._at_work[pid, 0] = leader
        if track and not member.tracker.is_tracking and not member.tracker.lack:
            member.tracker.start(leader, process.arena, process.pidfd)
        self.processes.append(process)

    @staticmethod
    def _arena(process: CapturedProcess, member: Member, leader: Borrowed) -> Arena:
        """The arena that stayed, if it still is there (execve(2) takes it away), else a new one."""
        if member.arena is not None:
            if any(vma.start == member.arena.base for vma in process.maps):
                return member.arena
            member.arena.close()
        member.arena = Arena.create(leader, process.maps, find_hole([process.maps], ARENA_BYTES))
        return member.arena

    def _give_back(self, process: CapturedProcess) -> None:
        try:
            leader = self._threads[process.frozen.leader.tid]
            for tid in process.frozen.threads:
                self._threads[tid].give_back()
            if not self._stay:
                assert process.arena is not None
                process.arena.remove(leader, process.maps)
                self.members[process.pid].arena = None
        except TaskDiedError:
            return  # nothing to give back to
        for tid in process.frozen.threads:
            self._frozen.note_run(tid, self._threads[tid].stops)

    # --- asking ---

    def executor(
        self, process: CapturedProcess, thread: FrozenThread
    ) -> Callable[[Sequence[Call]], Sequence[Reply]]:
        """Makes calls inside the thread."""
        arena = process.arena
        assert arena is not None
        return lambda calls: arena.run(self._worker(thread), calls)

    def _worker(self, thread: FrozenThread, lane: int = 0) -> Borrowed:
        """The thread, to run next in a lane of the arena of its process; who ran there before is given back."""
        before = self._at_work.get((thread.pid, lane))
        if before is not None and before.tid != thread.tid:
            before.give_back()
        self._at_work[thread.pid, lane] = self._threads[thread.tid]
        return self._threads[thread.tid]

    def repeat(self) -> None:
        """Make every look of the last time, and every call that only looks, those of several threads at once."""
        for process in self.processes:
            process.looks.repeat()
        waiting = [
            (process, thread)
            for process in self.processes
            for thread in process.frozen.threads.values()
        ]
        while waiting:
            waiting = self._repeat_calls(waiting)

    def _repeat_calls(self, waiting: _Pairs) -> _Pairs:
        """Have as many threads as there are lanes make their calls; who is left. Meanwhile, look at the rest."""
        lanes: dict[int, int] = {}  # pid → lanes in use
        left = []
        with ExitStack() as running:  # whoever was set off is waited for, whatever fails
            for process, thread in waiting:
                lane = lanes.get(process.pid, 0)
                if lane == LANES:
                    left.append((process, thread))
                    continue
                start = partial(self._start, process, thread, lane)
                started = process.looks.repeat_calls(thread.tid, start)
                if started is not None:
                    lanes[process.pid] = lane + 1
                    running.callback(started.wait)
            for process in self.processes:
                process.looks.repeat_meanwhile()
        return left

    def _start(
        self, process: CapturedProcess, thread: FrozenThread, lane: int, calls: Sequence[Call]
    ) -> Started:
        assert process.arena is not None
        return process.arena.start(self._worker(thread, lane), calls, lane=lane)

    def end(self) -> None:
        """Everyone is about to run again."""
        for process in self.processes:
            process.looks.end()

    # --- pages ---

    def _begin_look(self, process: CapturedProcess) -> None:
        tracker = self.members[process.pid].tracker
        self._cleanup.callback(tracker.abandon_look)
        tracker.begin_look(self._own_mappings(process))

    @staticmethod
    def _own_mappings(process: CapturedProcess) -> list[VmaLine]:
        return process.memo.of(
            "private", process.maps_text, lambda: private_mappings(process.maps, process.arena)
        )

    def copy_memory(
        self, buffer: CopyBuffer, *, full: bool, but: Container[int] = ()
    ) -> list[CapturedObject]:
        """Copy pages of every process into the buffer.

        `full`: all pages, `but` those of some processes that were copied already: of them what changed since.
        """
        return [
            self._copy(process, buffer, full=full and process.pid not in but)
            for process in self.processes
        ]

    def _copy(self, process: CapturedProcess, buffer: CopyBuffer, *, full: bool) -> CapturedObject:
        tracker = self.members[process.pid].tracker
        changes = tracker.look(self._own_mappings(process), full=full)
        offset = buffer.copy_ranges(process.tid, changes.copied)
        return CapturedObject(process.object_id, offset, changes.copied, changes.gone)


def private_mappings(vmas: Sequence[VmaLine], arena: Arena | None) -> list[VmaLine]:
    """Mappings whose pages are the process's own, and not ours or the kernel's."""
    return [
        vma
        for vma in vmas
        if not vma.is_shared
        and not (arena is not None and arena.base <= vma.start < arena.end)
        and not vma.name.startswith((b"[v", b"[uprobes"))
    ]


def _own_number(process: CapturedProcess, tid: int) -> int:
    """What a thread in another pid namespace calls itself."""
    return proc.numbers_below(process.status_of(tid)).task[-1]


def copy_content(content: Content, source: MemorySource, buffer: CopyBuffer) -> CapturedObject:
    """Copy what a resource asked for (shared memory, a deleted file) into the buffer."""
    with source:
        ranges = list(source.data_ranges())
        size = total_bytes(ranges)
        offset = buffer.reserve(size)
        if size < SHARED_BYTES:
            _copy_ranges(source, ranges, buffer, offset)
        else:
            one, other = map(as_list, halves(as_array(ranges)))
            middle = offset + total_bytes(one)
            run_both(
                partial(_copy_ranges, source, one, buffer, offset),
                partial(_copy_ranges, source, other, buffer, middle),
            )
    end = (content.size_bytes + PAGE_BYTES - 1) & -PAGE_BYTES
    return CapturedObject(
        content.object_id, offset, as_array(ranges), difference([(0, end)], ranges)
    )


def _copy_ranges(source: MemorySource, ranges: Ranges, buffer: CopyBuffer, offset: int) -> None:
    for start, end in ranges:
        source.read_into(start, buffer.view(offset, end - start))
        offset += end - start
