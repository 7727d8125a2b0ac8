"""Capture: freeze, ask each resource, look at the pages, copy, thaw. Orchestration only; no resource is named here.

One `Tracer` belongs to one partition and one thread (ptrace demands it). It remembers, between captures, what was
written into the last one, so that the next holds only changes.
"""

import os
import platform
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

from sls import proc, syscalls
from sls.errors import TaskDiedError
from sls.freeze import Frozen, FrozenThread
from sls.image import (
    FIRST_MEMORY_OBJECT,
    DescriptorImage,
    Image,
    ProcessImage,
    ThreadImage,
    encode,
)
from sls.pages import Changes, CopyBuffer, PageTracker, Ranges
from sls.proc import FdInfo
from sls.remote import (
    ARENA_BYTES,
    Arena,
    Borrowed,
    Call,
    Reply,
    find_hole,
    open_memory,
    quiet_signal,
    run_together,
)
from sls.resources import (
    FILE_TYPES,
    PROCESS_STATES,
    THREAD_STATES,
    CaptureContext,
    CapturedProcess,
    FileRecord,
    MemorySource,
    OpenFile,
)

_CONTENT_OBJECTS = 1 << 32  # object numbers of contents other than private memory


class CapturedObject(NamedTuple):
    """Bytes of one object of the generation: `ranges` packed in the buffer from `offset`; `gone` become holes."""

    object_id: int
    offset: int
    ranges: Ranges
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

    def __init__(self, pid: int, start_time: int, object_id: int) -> None:
        self.pid = pid
        self.start_time = start_time
        self.object_id = object_id
        self.tracker = PageTracker(pid)

    def close(self) -> None:
        self.tracker.close()


class Tracer:
    """Captures one partition, again and again. `track`: keep page tracking between captures (deltas)."""

    def __init__(self) -> None:
        self.buffer = CopyBuffer()
        self._members: dict[int, _Member] = {}
        self._next_object = FIRST_MEMORY_OBJECT
        self._kernel = platform.release()
        self._boot_id = proc.boot_id()

    def capture(
        self,
        members: Callable[[], Iterable[int]],
        *,
        full: bool,
        track: bool,
        buffer: CopyBuffer | None = None,
    ) -> Capture:
        """Stop `members` (asked again until no new one appears), take everything, let them go.

        A delta when every member was tracked since the last capture and not `full`. Raises UnsupportedResourceError,
        FreezeError, TaskDiedError; the tasks go on in any case. Bytes go into `buffer`, else into the tracer's own.
        """
        if buffer is None:
            buffer = self.buffer
            buffer.clear()
        clock = _Stages()
        with ExitStack() as cleanup:
            frozen = cleanup.enter_context(Frozen(members))
            clock.lap("freeze")
            session = _Session(self, frozen, buffer, cleanup, track=track)
            clock.lap("prepare")
            image = session.read_all()
            clock.lap("read")
            is_delta = not full and session.is_known
            objects = session.copy_all(full=not is_delta)
            clock.lap("copy")
        clock.lap("thaw")
        stop_ns = clock.total()
        self._forget_gone(session.pids)
        return Capture(
            image, objects, is_delta, stop_ns, clock.stages,
            sum(end - start for one in objects for start, end in one.ranges) // syscalls.PAGE_BYTES,
        )  # fmt: skip

    def member(self, pid: int, start_time: int) -> _Member:
        """What is remembered of that process; new when it is another one of the same number."""
        known = self._members.get(pid)
        if known is not None and known.start_time == start_time:
            return known
        if known is not None:
            known.close()
        self._members[pid] = _Member(pid, start_time, self._next_object)
        self._next_object += 1
        return self._members[pid]

    def forget(self) -> None:
        """The last capture did not become a generation: the next one is full."""
        for member in self._members.values():
            member.tracker.forget()

    def _forget_gone(self, pids: Sequence[int]) -> None:
        for pid in set(self._members) - set(pids):
            self._members.pop(pid).close()

    def stop_tracking(self) -> None:
        """Let go of everything that is held in the tasks."""
        self._forget_gone([])

    def describe_machine(self) -> tuple[str, str]:
        """(boot id, kernel release)."""
        return self._boot_id, self._kernel


class _Stages:
    def __init__(self) -> None:
        self.stages: dict[str, int] = {}
        self._start = self._last = time.monotonic_ns()

    def lap(self, name: str) -> None:
        now = time.monotonic_ns()
        self.stages[name] = now - self._last
        self._last = now

    def total(self) -> int:
        return self._last - self._start


class _Session:
    """One stop: every process with its arena and borrowed threads. Cleanup goes through the caller's ExitStack."""

    def __init__(
        self, tracer: Tracer, frozen: Frozen, buffer: CopyBuffer, cleanup: ExitStack, *, track: bool
    ) -> None:
        self._tracer = tracer
        self._buffer = buffer
        self._cleanup = cleanup
        self._frozen = frozen
        self.pids = sorted(frozen.processes)
        self.is_known = True
        self.processes: list[CapturedProcess] = []
        self._members: dict[int, _Member] = {}
        self._threads: dict[int, Borrowed] = {}
        for pid in self._tree_order():
            self._prepare(pid, track)
        self.ctx = CaptureContext(self.processes, _CONTENT_OBJECTS)

    def _tree_order(self) -> list[int]:
        """Parents before children."""
        parents = {pid: proc.stat(pid).ppid for pid in self.pids}

        def depth(pid: int) -> int:
            return 1 + depth(parents[pid]) if parents.get(pid) in parents else 0

        return sorted(self.pids, key=lambda pid: (depth(pid), pid))

    def _prepare(self, pid: int, track: bool) -> None:
        frozen = self._frozen.processes[pid]
        member = self._tracer.member(pid, proc.stat(pid).start_time_ticks)
        self.is_known &= member.tracker.is_tracking
        process = CapturedProcess(frozen, member.object_id, is_tracked=member.tracker.is_tracking)
        self._cleanup.callback(process.close)
        stop_signal = quiet_signal(process.status)
        for thread in frozen.threads.values():
            borrowed = Borrowed(pid, thread.tid, thread.registers, thread.sigmask, stop_signal)
            self._threads[thread.tid] = borrowed
        leader = self._threads[frozen.leader.tid]
        process.arena = Arena.create(leader, process.maps, find_hole([process.maps], ARENA_BYTES))
        self._cleanup.callback(self._give_back, process)
        if track and not member.tracker.is_tracking and not member.tracker.lack:
            member.tracker.start(leader, process.arena, process.pidfd)
        self.processes.append(process)
        self._members[pid] = member

    def _give_back(self, process: CapturedProcess) -> None:
        try:
            leader = self._threads[process.frozen.leader.tid]
            assert process.arena is not None
            process.arena.remove(leader, process.maps)
            for tid in process.frozen.threads:
                self._threads[tid].give_back()
        except TaskDiedError:
            return  # nothing to give back to

    # --- records ---

    def read_all(self) -> Image:
        """Every record of every resource."""
        tables = [self._descriptors(process) for process in self.processes]
        files = [self._capture_file(file) for file in self.ctx.files.values()]
        processes = [
            self._process(process, table)
            for process, table in zip(self.processes, tables, strict=True)
        ]
        boot_id, kernel = self._tracer.describe_machine()
        return Image(
            time_ns=time.time_ns(),
            boot_id=boot_id,
            kernel=kernel,
            processes=tuple(processes),
            files=tuple(files),
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
        stat = process.stat
        return ProcessImage(
            pid=process.pid, ppid=stat.ppid, pgid=stat.pgrp, sid=stat.session, comm=stat.comm,
            states=states, threads=tuple(threads), descriptors=descriptors,
        )  # fmt: skip

    def _executor(
        self, process: CapturedProcess, thread: FrozenThread
    ) -> Callable[[Sequence[Call]], Sequence[Reply]]:
        arena = process.arena
        assert arena is not None
        return lambda calls: arena.run(self._threads[thread.tid], calls)

    # --- open files ---

    def _descriptors(self, process: CapturedProcess) -> tuple[DescriptorImage, ...]:
        entries = []
        for fd in proc.entries(process.pid, "fd"):
            target = proc.link(process.pid, f"fd/{fd}")
            info = proc.fdinfo(process.pid, fd)
            file_id = self._file_id(process, fd, target, info)
            self.ctx.descriptors[process.pid, fd] = file_id
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
        for known in self.ctx.files.values():
            if known.target == target and known.flags == info.flags & ~os.O_CLOEXEC:
                same = syscalls.kcmp(known.pid, process.pid, syscalls.KCMP_FILE, known.fd, fd)
                if same == 0:
                    return known.file_id
        file = OpenFile(process, fd, target, info, len(self.ctx.files) + 1)
        self._cleanup.callback(file.close)
        self.ctx.files[file.file_id] = file
        return file.file_id

    def _capture_file(self, file: OpenFile) -> Any:
        for kind in FILE_TYPES:
            if kind.matches(file):
                record: FileRecord = kind.capture(self.ctx, file)
                return record
        raise file.unsupported(f"{file.target.decode(errors='replace')} is not supported")

    # --- contents ---

    def copy_all(self, *, full: bool) -> list[CapturedObject]:
        """Copy pages of every process, and the contents that resources asked for, into the buffer."""
        objects = [self._copy_memory(process, full) for process in self.processes]
        objects += [
            self._copy_content(content.object_id, source) for content, source in self.ctx.contents
        ]
        return objects

    def _copy_memory(self, process: CapturedProcess, full: bool) -> CapturedObject:
        own = [
            vma for vma in process.maps
            if not vma.is_shared and not process.is_arena(vma) and not vma.name.startswith((b"[v", b"[uprobes"))
        ]  # fmt: skip
        changes: Changes = self._members[process.pid].tracker.look(own, full=full)
        memory = open_memory(process.pid)
        try:
            offset = self._buffer.copy_ranges(process.pid, memory, changes.copied)
        finally:
            os.close(memory)
        return CapturedObject(process.object_id, offset, changes.copied, changes.gone)

    def _copy_content(self, object_id: int, source: MemorySource) -> CapturedObject:
        buffer = self._buffer
        ranges = list(source.data_ranges())
        offset = buffer.reserve(sum(end - start for start, end in ranges))
        position = offset
        for start, end in ranges:
            source.read_into(start, buffer.view(position, end - start))
            position += end - start
        source.close()
        return CapturedObject(object_id, offset, ranges, [])


def encoded(capture: Capture) -> bytes:
    """The image of a capture in its stored form."""
    return encode(capture.image)
