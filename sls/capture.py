"""Capture: freeze, ask each resource, look at the pages, copy, thaw. Orchestration only; no resource is named here.

One `Tracer` belongs to one partition and one thread (ptrace demands it). It remembers, between captures, what was
written into the last one, so that the next holds only changes.
"""

import os
import platform
import time
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any, Final, NamedTuple

import msgspec

from sls import proc, syscalls
from sls.content_digests import ContentDigests
from sls.errors import SlsError, TaskDiedError
from sls.freeze import Frozen, FrozenThread
from sls.image import (
    FIRST_MEMORY_OBJECT,
    DescriptorImage,
    Image,
    ProcessImage,
    ThreadImage,
)
from sls.page_tracker import Changes, PageTracker
from sls.pages import CopyBuffer
from sls.proc import FdInfo, VmaLine
from sls.ranges import (
    RangeArray,
    Ranges,
    array_bytes,
    as_array,
    difference,
    intersection,
    merged,
)
from sls.remote import (
    ARENA_BYTES,
    Arena,
    Borrowed,
    Call,
    Reply,
    find_hole,
    quiet_signal,
    remove_abandoned,
    run_together,
)
from sls.resources import (
    FILE_TYPES,
    PROCESS_STATES,
    THREAD_STATES,
    CaptureContext,
    CapturedProcess,
    Content,
    FileType,
    Memo,
    MemoryRecord,
    MemorySource,
    OpenFile,
    VmaKind,
)
from sls.sharing import refuse_foreign, refuse_shared
from sls.sleep import Sleepers

_EARLY_BYTES: Final = 8 << 20  # less is copied faster than a first stop takes
_EARLY_ROUNDS: Final = 2
_CONTENT_OBJECTS: Final = 1 << 32  # object numbers of contents other than private memory


class CapturedObject(NamedTuple):
    """Bytes of one object of the generation: `ranges` packed in the buffer from `offset`; `gone` become holes."""

    object_id: int
    offset: int
    ranges: RangeArray
    gone: Ranges


class Capture(NamedTuple):
    """One instant of a partition. Bytes of memory are in the buffer that the caller gave."""

    image: Image
    objects: list[CapturedObject]
    is_delta: bool
    stop_ns: int
    stages: dict[str, int]
    pages: int


class _Member:
    """What is remembered of one process between captures."""

    def __init__(self, tid: int, start_time: int, object_id: int) -> None:
        self.start_time = start_time
        self.object_id = object_id
        self.tracker = PageTracker(tid)
        self.memo = Memo()
        self.arena: Arena | None = None  # one that stays in the process between captures

    def close(self) -> None:
        self.tracker.close()
        if self.arena is not None:
            self.arena.close()


class Tracer:
    """Captures one partition, again and again. `track`: keep page tracking between captures (deltas)."""

    def __init__(self) -> None:
        self.buffer = CopyBuffer()
        self._members: dict[int, _Member] = {}
        self._next_object = FIRST_MEMORY_OBJECT
        self._kernel = platform.release()
        self._boot_id = proc.boot_id()
        self._sleepers = Sleepers()
        self._digests = ContentDigests()
        self._has_base = False  # whether the last capture is one that a delta can build on

    def capture(
        self,
        members: Callable[[], Iterable[int]],
        *,
        full: bool,
        track: bool,
        stay: bool = False,
        buffer: CopyBuffer | None = None,
        at_rest: Callable[[], None] | None = None,
    ) -> Capture:
        """Stop `members` (asked again until no new one appears), take everything, let them go.

        A delta when there was a tracked capture before and not `full`; who is new since comes whole. Raises
        UnsupportedResourceError, FreezeError, TaskDiedError; the tasks go on in any case. Bytes go into `buffer`, else
        into the tracer's own.
        `stay`: the next capture follows soon, so the arenas stay in the processes; `leave` takes them out.
        `at_rest` is called while everyone stands still.
        """
        if buffer is None:
            buffer = self.buffer
            buffer.clear()
        clock = _Stages()
        pids = list(members())
        self._look_ahead(pids, full=full)
        clock.lap("ahead")
        early = _Early(self, buffer, self._sleepers)
        early.copy([pid for pid in pids if full or not self._is_tracked(pid)])
        clock.lap("early")
        with ExitStack() as cleanup:
            frozen = cleanup.enter_context(Frozen(members, self._sleepers))
            clock.lap("freeze")
            session = _Session(self, frozen, buffer, cleanup, track=track, stay=stay)
            clock.lap("prepare")
            image = session.read_all()
            clock.lap("read")
            is_delta = not full and self._has_base
            objects = early.objects + session.copy_all(full=not is_delta, but=early.pids)
            image = session.with_own_pages(image)
            clock.lap("copy")
            if at_rest is not None:
                at_rest()
                clock.lap("files")
        clock.lap("thaw")
        stop_ns = time.monotonic_ns() - frozen.since_ns + early.stop_ns
        if track:
            objects = self._without_unchanged(objects, buffer, is_delta=is_delta)
            clock.lap("compare")
        self._forget_gone(session.pids)
        if not track:
            self._end_tracking()
        self._has_base = track
        return Capture(
            image, objects, is_delta, stop_ns, clock.stages,
            sum(array_bytes(one.ranges) for one in objects) // syscalls.PAGE_BYTES,
        )  # fmt: skip

    def _without_unchanged(
        self, objects: list[CapturedObject], buffer: CopyBuffer, *, is_delta: bool
    ) -> list[CapturedObject]:
        """The objects without pages of contents that the last capture had already."""
        if not is_delta:
            self._digests.forget()
        self._digests.forget_gone({one.object_id for one in objects})
        return [
            one._replace(
                ranges=self._digests.keep_changed(
                    one.object_id, one.ranges, buffer.view(one.offset, array_bytes(one.ranges))
                )
            )
            if one.object_id >= _CONTENT_OBJECTS
            else one
            for one in objects
        ]

    def _end_tracking(self) -> None:
        for member in self._members.values():
            member.tracker.stop()

    def _is_tracked(self, pid: int) -> bool:
        known = self._members.get(pid)
        return known is not None and known.tracker.is_tracking and not known.tracker.is_fresh

    def _look_ahead(self, pids: Iterable[int], *, full: bool) -> None:
        """Read what is slow before the stop: of everyone for a full capture, else of who is new."""
        for pid in pids:
            known = self._members.get(pid)
            if known is not None and not full:
                continue
            try:
                member = self.member(pid, pid, proc.start_time(pid))
                for state in PROCESS_STATES:
                    state.look_ahead(pid, member.memo)
            except (TaskDiedError, PermissionError):
                continue  # the freeze will tell

    def leave(self, members: Callable[[], Iterable[int]]) -> None:
        """Take the arenas out of the processes and end tracking: nothing of ours is left in them."""
        staying = [member for member in self._members.values() if member.arena is not None]
        try:
            if staying:
                with ExitStack() as cleanup:
                    frozen = cleanup.enter_context(Frozen(members, self._sleepers))
                    _Session(self, frozen, self.buffer, cleanup, track=False, stay=False)
        except SlsError:
            return  # they have ended, or cannot be stopped now: a mapping that nobody uses stays
        finally:
            self._has_base = False
            self._forget_gone([])

    def member(self, pid: int, tid: int, start_time: int) -> _Member:
        """What is remembered of that process; new when it is another one of the same number."""
        known = self._members.get(pid)
        if known is not None and known.start_time == start_time:
            return known
        if known is not None:
            known.close()
        self._members[pid] = _Member(tid, start_time, self._next_object)
        self._next_object += 1
        return self._members[pid]

    def forget(self) -> None:
        """The last capture did not become a generation: the next one is full."""
        self._has_base = False
        for member in self._members.values():
            member.tracker.forget()

    def _forget_gone(self, pids: Sequence[int]) -> None:
        for pid in set(self._members) - set(pids):
            self._members.pop(pid).close()

    def describe_machine(self) -> tuple[str, str]:
        """(boot id, kernel release)."""
        return self._boot_id, self._kernel


class _Early:
    """Copies large memory while its owner runs, so that the stop copies only what was written meanwhile."""

    def __init__(self, tracer: Tracer, buffer: CopyBuffer, sleepers: Sleepers) -> None:
        self._tracer = tracer
        self._buffer = buffer
        self._sleepers = sleepers
        self.objects: list[CapturedObject] = []
        self.pids: set[int] = set()
        self.stop_ns = 0

    def copy(self, pids: Iterable[int]) -> None:
        """Copy those of `pids` that are worth it, in at most `_EARLY_ROUNDS` rounds."""
        try:
            large = [pid for pid in pids if proc.private_bytes(pid) >= _EARLY_BYTES]
            members = self._tracked(large) if large else {}
            for pid, member in members.items():
                self._copy_running(pid, member)
        except (SlsError, OSError):
            self.objects.clear()  # the stop copies everything, and tells what is wrong
            self.pids.clear()

    def _tracked(self, pids: list[int]) -> dict[int, _Member]:
        """The members behind `pids` with tracking on, which takes a first short stop."""
        with ExitStack() as cleanup:
            frozen = cleanup.enter_context(Frozen(lambda: pids, self._sleepers))
            session = _Session(self._tracer, frozen, self._buffer, cleanup, track=True, stay=True)
        self.stop_ns = time.monotonic_ns() - frozen.since_ns
        return {pid: one for pid, one in session.members.items() if one.tracker.is_tracking}

    def _copy_running(self, pid: int, member: _Member) -> None:
        own = _private(proc.parse_maps(proc.read(pid, "maps")), member.arena)
        changes = member.tracker.look(own, full=True)
        for _ in range(_EARLY_ROUNDS):
            self._copy(pid, member.object_id, changes)
            if array_bytes(changes.copied) < _EARLY_BYTES:
                break
            changes = member.tracker.look_again()
        else:
            self._copy(pid, member.object_id, changes)
        self.pids.add(pid)

    def _copy(self, pid: int, object_id: int, changes: Changes) -> None:
        offset = self._buffer.copy_ranges(pid, changes.copied)
        self.objects.append(CapturedObject(object_id, offset, changes.copied, changes.gone))


def _private(vmas: Sequence[VmaLine], arena: Arena | None) -> list[VmaLine]:
    """Mappings whose pages are the process's own, and not ours or the kernel's."""
    return [
        vma
        for vma in vmas
        if not vma.is_shared
        and not (arena is not None and arena.base <= vma.start < arena.end)
        and not vma.name.startswith((b"[v", b"[uprobes"))
    ]


class _Stages:
    def __init__(self) -> None:
        self.stages: dict[str, int] = {}
        self._last = time.monotonic_ns()

    def lap(self, name: str) -> None:
        now = time.monotonic_ns()
        self.stages[name] = now - self._last
        self._last = now


class _Session:
    """One stop: every process with its arena and borrowed threads. Cleanup goes through the caller's ExitStack."""

    def __init__(
        self,
        tracer: Tracer,
        frozen: Frozen,
        buffer: CopyBuffer,
        cleanup: ExitStack,
        *,
        track: bool,
        stay: bool,
    ) -> None:
        self._tracer = tracer
        self._buffer = buffer
        self._cleanup = cleanup
        self._frozen = frozen
        self._stay = stay
        self.pids = sorted(frozen.processes)
        self.processes: list[CapturedProcess] = []
        self.members: dict[int, _Member] = {}
        self._threads: dict[int, Borrowed] = {}
        self._at_work: dict[int, Borrowed] = {}  # pid → who ran last in its arena
        self._alike: dict[tuple[bytes, int], list[OpenFile]] = {}  # link and flags → descriptions
        refuse_shared(frozen.processes.values())
        for pid in self._tree_order():
            self._prepare(pid, track)
        self.ctx = CaptureContext(self.processes, _CONTENT_OBJECTS)
        cleanup.callback(self.ctx.close_adopted)

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
        member = self._tracer.member(pid, frozen.leader.tid, proc.start_time(pid))
        self.members[pid] = member
        refuse_foreign(frozen)
        process = CapturedProcess(
            frozen, member.object_id, member.memo, is_tracked=member.tracker.is_tracking
        )
        self._cleanup.callback(process.close)
        stop_signal = quiet_signal(process.status)
        for thread in frozen.threads.values():
            borrowed = Borrowed(pid, thread.tid, thread.registers, thread.sigmask, stop_signal)
            self._threads[thread.tid] = borrowed
        leader = self._threads[frozen.leader.tid]
        if member.arena is None:
            places = [thread.registers.rip for thread in frozen.threads.values()]
            if remove_abandoned(leader, process.maps, places):
                process.read_maps()
        process.arena = self._arena(process, member, leader)
        self._cleanup.callback(self._give_back, process)
        self._at_work[pid] = leader
        if track and not member.tracker.is_tracking and not member.tracker.lack:
            member.tracker.start(leader, process.arena, process.pidfd)
        self.processes.append(process)

    @staticmethod
    def _arena(process: CapturedProcess, member: _Member, leader: Borrowed) -> Arena:
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

    # --- records ---

    def read_all(self) -> Image:
        """Every record of every resource."""
        tables = [self._descriptors(process) for process in self.processes]
        files = self._capture_files()
        processes = [
            self._process(process, table)
            for process, table in zip(self.processes, tables, strict=True)
        ]
        boot_id, kernel = self._tracer.describe_machine()
        return Image(
            time_ns=time.time_ns(),
            boot_id=boot_id,
            kernel=kernel,
            processes=(*processes, *self._zombies()),
            files=files,
            contents=tuple(content for content, _ in self.ctx.contents),
            losses=tuple(self.ctx.losses),
        )

    def _process(
        self, process: CapturedProcess, descriptors: tuple[DescriptorImage, ...]
    ) -> ProcessImage:
        leader = process.frozen.leader
        states: tuple[Any, ...] = ()
        threads = []
        for thread in process.frozen.threads.values():
            remotes: list[Any] = [
                state.capture(self.ctx, process, thread) for state in THREAD_STATES
            ]
            count = len(remotes)
            if thread is leader:
                remotes += [state.capture(self.ctx, process) for state in PROCESS_STATES]
            results = run_together(remotes, self._executor(process, thread))
            threads.append(ThreadImage(tid=thread.tid, states=tuple(results[:count])))
            states = states or tuple(results[count:])
        threads.sort(key=lambda one: (one.tid != process.pid, one.tid))
        stat = proc.stat(process.pid)
        return ProcessImage(
            pid=process.pid, ppid=stat.ppid, pgid=stat.pgrp, sid=stat.session, comm=stat.comm,
            states=states, threads=tuple(threads), descriptors=descriptors, exit_signal=stat.exit_signal,
            is_stopped=process.is_stopped,
        )  # fmt: skip

    def _zombies(self) -> Iterator[ProcessImage]:
        for pid in sorted(self._frozen.zombies):
            stat = proc.stat(pid)
            if stat.exit_code & 0x80:
                self.ctx.lose(pid, "exit status", "that it left a core is not told again")
            yield ProcessImage(
                pid=pid, ppid=stat.ppid, pgid=stat.pgrp, sid=stat.session, comm=stat.comm,
                exit_status=stat.exit_code, exit_signal=stat.exit_signal,
            )  # fmt: skip

    def _executor(
        self, process: CapturedProcess, thread: FrozenThread
    ) -> Callable[[Sequence[Call]], Sequence[Reply]]:
        arena = process.arena
        assert arena is not None
        return lambda calls: arena.run(self._worker(thread), calls)

    def _worker(self, thread: FrozenThread) -> Borrowed:
        """The thread, to run next in the arena of its process; who ran there before is given back."""
        before = self._at_work.get(thread.pid)
        if before is not None and before.tid != thread.tid:
            before.give_back()
        self._at_work[thread.pid] = self._threads[thread.tid]
        return self._at_work[thread.pid]

    # --- open files ---

    def _descriptors(self, process: CapturedProcess) -> tuple[DescriptorImage, ...]:
        entries = []
        for fd in proc.entries(process.tid, "fd"):
            target = proc.link(process.tid, f"fd/{fd}")
            info = proc.fdinfo(process.tid, fd)
            file_id = self._file_id(process, fd, target, info)
            self.ctx.descriptors[process.pid, fd] = file_id
            process.infos[fd] = info
            entries.append(
                DescriptorImage(
                    fd=fd,
                    file_id=file_id,
                    close_on_exec=bool(info.flags & os.O_CLOEXEC),
                    target=target,
                    info=info.text,
                )
            )
        return tuple(entries)

    def _file_id(self, process: CapturedProcess, fd: int, target: bytes, info: FdInfo) -> int:
        """The number of the open file description; kcmp(2) tells which descriptors share one."""
        alike = self._alike.setdefault((target, info.flags & ~os.O_CLOEXEC), [])
        for known in alike:
            if syscalls.kcmp(known.pid, process.tid, syscalls.KCMP_FILE, known.fd, fd) == 0:
                return known.file_id
        file = OpenFile(process, fd, target, info, len(self.ctx.files) + 1)
        alike.append(file)
        self._cleanup.callback(file.close)
        self.ctx.files[file.file_id] = file
        return file.file_id

    def _capture_files(self) -> tuple[Any, ...]:
        """A record for each description, in the order of their numbers; queues first, for they may hold more."""
        records: dict[int, Any] = {}
        while left := [file for file in self.ctx.files.values() if file.file_id not in records]:
            kinds = {file.file_id: _kind_of(file) for file in left}
            queues = [file for file in left if kinds[file.file_id].holds_files]
            for file in queues or left:
                records[file.file_id] = kinds[file.file_id].capture(self.ctx, file)
        return tuple(records[file_id] for file_id in sorted(records))

    # --- contents ---

    def copy_all(self, *, full: bool, but: Container[int] = ()) -> list[CapturedObject]:
        """Copy pages of every process, and the contents that resources asked for, into the buffer.

        `full`: all pages, `but` those of some processes that were copied already: of them what changed since.
        """
        objects = [
            self._copy_memory(process, full and process.pid not in but)
            for process in self.processes
        ]
        objects += [self._copy_content(content, source) for content, source in self.ctx.contents]
        return objects

    def with_own_pages(self, image: Image) -> Image:
        """The image with what `copy_all` found: which pages of mapped files the processes have made their own."""
        processes = []
        for process in image.processes:
            if process.pid in self.members:
                captured = self.members[process.pid].tracker.captured
                states = tuple(
                    _with_own_pages(state, captured) if isinstance(state, MemoryRecord) else state
                    for state in process.states
                )
                process = msgspec.structs.replace(process, states=states)  # noqa: PLW2901
            processes.append(process)
        return msgspec.structs.replace(image, processes=tuple(processes))

    def _copy_memory(self, process: CapturedProcess, full: bool) -> CapturedObject:
        own = process.memo.of(
            "private", process.maps_text, lambda: _private(process.maps, process.arena)
        )
        changes = self.members[process.pid].tracker.look(own, full=full)
        offset = self._buffer.copy_ranges(process.tid, changes.copied)
        return CapturedObject(process.object_id, offset, changes.copied, changes.gone)

    def _copy_content(self, content: Content, source: MemorySource) -> CapturedObject:
        buffer = self._buffer
        ranges = list(source.data_ranges())
        offset = buffer.reserve(sum(end - start for start, end in ranges))
        position = offset
        for start, end in ranges:
            source.read_into(start, buffer.view(position, end - start))
            position += end - start
        source.close()
        end = (content.size_bytes + syscalls.PAGE_BYTES - 1) & -syscalls.PAGE_BYTES
        gone = difference([(0, end)], ranges)
        return CapturedObject(content.object_id, offset, as_array(ranges), gone)


def _with_own_pages(record: MemoryRecord, captured: Ranges) -> MemoryRecord:
    mapped = merged(
        (vma.start, vma.end)
        for vma in record.vmas
        if not vma.is_shared and vma.kind not in (VmaKind.ANONYMOUS, VmaKind.KERNEL)
    )
    return msgspec.structs.replace(record, own_pages=tuple(intersection(captured, mapped)))


def _kind_of(file: OpenFile) -> FileType[Any]:
    for kind in FILE_TYPES:
        if kind.matches(file):
            return kind
    raise file.unsupported(f"{file.target.decode(errors='replace')} is not supported")
