"""Restore: read the image, make blank processes, run the stages, let all go at once. Orchestration only.

All or nothing: on any failure everything that was made is ended, and the reason goes up.
Stages are those of `sls.resources.Stage`; each ends for all processes before the next begins. Single-threaded: ptrace
belongs to one thread.
"""

import fcntl
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from functools import partial
from typing import Any, Final, NamedTuple

from sls import proc, syscalls
from sls.blank import BlankProcess, Forest
from sls.descriptor_moves import moves
from sls.errors import TaskDiedError
from sls.handover import Handover
from sls.image import Image, ProcessImage
from sls.numbers import wait_for_numbers
from sls.ranges import difference, intersection
from sls.remote import Call, Reply, call, run_together
from sls.resources import (
    FILE_TYPES,
    PROCESS_STATES,
    THREAD_STATES,
    ContentReader,
    CredentialsRecord,
    FileType,
    Loss,
    Owner,
    Parting,
    RestoreContext,
    Stage,
    resume_registers,
)

# O_ASYNC is not among them: the kernel notes the descriptor's number with it
_STATUS_FLAGS: Final = os.O_APPEND | os.O_NONBLOCK | os.O_DIRECT | os.O_NOATIME


class Restored(NamedTuple):
    """What came back. `pids`: parents before children; `notes`: what came back in another form."""

    pids: tuple[int, ...]
    roots: tuple[int, ...]
    notes: tuple[Loss, ...]
    stages: dict[str, int]


def restore(
    image: Image,
    contents: ContentReader,
    *,
    terminal: Sequence[int] = (),
    stopped: bool = False,
    uid: int = 0,
    gid: int = 0,
    parting: Parting | None = None,
) -> Restored:
    """Bring the processes of `image` back under their old numbers, as children of this process.

    `terminal`: descriptors 0, 1, 2 that stand in for a terminal that is gone. `stopped`: they wait for SIGCONT.
    `uid`, `gid`: whose the partition is; what is behind a path is opened with his rights.
    `parting`: began when the processes ended, ends when they are back; where the restore fails, it goes on.
    Raises RestoreConflictError (a pid in use, a file gone or changed), ImageError, RemoteSyscallError.
    """
    with ExitStack() as undo:
        if parting is None:
            parting = Parting()
            undo.callback(parting.close)
        owner = _owner(image, uid, gid)
        return _Restore(image, contents, terminal, owner, parting).run(stopped)


def part(image: Image, parting: Parting) -> None:
    """The processes of `image` are about to end, or have: hold up what is outside of them."""
    kinds = {kind.record: kind for kind in FILE_TYPES}
    for record in image.files:
        kinds[type(record)].part(parting, record)
    parting.begin()


def _owner(image: Image, uid: int, gid: int) -> Owner:
    """The owner with the other groups that his processes are in."""
    found = [
        state
        for process in image.processes
        for thread in process.threads[:1]
        for state in thread.states
        if isinstance(state, CredentialsRecord) and set(state.uids) == {uid}
    ]
    return Owner(uid, gid, found[0].groups if found and uid else ())


class _Restore:
    def __init__(
        self,
        image: Image,
        contents: ContentReader,
        terminal: Sequence[int],
        owner: Owner,
        parting: Parting,
    ) -> None:
        self._image = image
        self._contents = contents
        self._ctx = RestoreContext(
            contents,
            is_same_boot=image.boot_id == proc.boot_id(),
            parting=parting,
            is_last_word=parting.image_time_ns == image.time_ns,
            terminal=terminal,
            owner=owner,
        )
        self._stages: dict[str, int] = {}
        self._living = [one for one in image.processes if one.exit_status is None]

    def run(self, stopped: bool) -> Restored:
        with ExitStack() as undo:
            undo.callback(self._ctx.close)
            self._handover = Handover(self._ctx.inheritable)
            undo.callback(self._handover.close)
            made = undo.enter_context(_OnFailure(self._ctx.remove_made))
            self._timed("wait", lambda: wait_for_numbers(self._image))
            self._timed("open", lambda: part(self._image, self._ctx.parting))
            self._timed("open", self._open_files)
            self._timed("seed", self._plant)
            kill = undo.enter_context(_OnFailure(self._forest.kill))
            self._timed("tasks", self._forest.grow)
            for note in self._forest.notes:
                self._ctx.note("sessions", note)
            for stage in (Stage.TASKS, Stage.MEMORY):
                self._timed(stage.name.lower(), partial(self._run_stage, stage))
            self._timed("files", self._open_late_files)
            self._timed("files", self._descriptor_tables)
            self._timed("links", self._link)
            for stage in (Stage.IDENTITY, Stage.RESUME):
                self._timed(stage.name.lower(), partial(self._run_stage, stage))
            self._timed("registers", self._set_registers)
            self._forest.release()
            self._timed("parting", self._ctx.end_parting)
            self._timed("go", lambda: self._let_go(stopped))
            kill.disarm()
            made.disarm()
        return Restored(
            pids=tuple(one.pid for one in self._image.processes),
            roots=tuple(one.pid for one in self._image.roots()),
            notes=tuple(self._ctx.notes),
            stages=self._stages,
        )

    def _plant(self) -> None:
        self._forest = Forest(self._image, self._fill, self._leading_calls, self._calls_alone)

    def _leading_calls(self, process: ProcessImage) -> list[Call]:
        states = {state.record: state for state in PROCESS_STATES}
        return [
            one for record in process.states for one in states[type(record)].lead(self._ctx, record)
        ]

    def _calls_alone(self, process: ProcessImage, pid: int) -> list[Call]:
        """The last are those that take rights away. `pid`: who makes them, himself or in his stead."""
        if pid != process.pid:
            self._ctx.stops_at[pid] = process.pid_namespaces.owner
        records: list[Any] = [*process.states]
        for thread in process.threads[:1]:
            records += thread.states if thread.tid == process.pid else ()
        kinds: list[Any] = [*PROCESS_STATES, *THREAD_STATES]
        return [
            one
            for kind in reversed(kinds)
            for record in records
            if type(record) is kind.record
            for one in kind.alone(self._ctx, record, pid)
        ]

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start = time.monotonic_ns()
        result = work()
        self._stages[name] = self._stages.get(name, 0) + time.monotonic_ns() - start
        return result

    # --- files ---

    def _open_files(self) -> None:
        records: list[Any] = [one for process in self._living for one in process.states]
        threads = (thread for process in self._living for thread in process.threads)
        records += [one for thread in threads for one in thread.states]
        kinds: list[Any] = [*PROCESS_STATES, *THREAD_STATES]
        for kind in sorted(kinds, key=_stage):  # namespaces first: others open what is there
            for record in records:
                if type(record) is kind.record:
                    kind.prepare(self._ctx, record)
        self._open_those(is_late=False)

    def _open_late_files(self) -> None:
        self._open_those(is_late=True)

    def _open_those(self, *, is_late: bool) -> None:
        kinds = {kind.record: kind for kind in FILE_TYPES}
        records = [one for one in self._image.files if kinds[type(one)].is_late == is_late]
        self._late = [one.file_id for one in records]
        for record in records:
            with self._ctx.in_network(record.network):
                fd = kinds[type(record)].restore(self._ctx, record)
            try:
                if not record.flags & os.O_PATH:
                    flags = fcntl.fcntl(fd, fcntl.F_GETFL)
                    wanted = flags & ~_STATUS_FLAGS | record.flags & _STATUS_FLAGS
                    if wanted != flags:
                        fcntl.fcntl(fd, fcntl.F_SETFL, wanted)
                self._ctx.file_descriptors[record.file_id] = self._ctx.inheritable(fd)
            finally:
                os.close(fd)
        rounds = [self._settling(kinds[type(record)], record) for record in records]
        while rounds:
            rounds = [one for one in rounds if next(one, self) is None]

    def _settling(self, kind: FileType[Any], record: Any) -> Iterator[None]:
        """The rounds of one file, each in the network that it is of."""
        rounds = kind.settle(self._ctx, record, self._ctx.descriptor(record.file_id))
        while True:
            with self._ctx.in_network(record.network):
                if next(rounds, self) is self:
                    return
            yield

    def _late_sources(self, process: ProcessImage) -> dict[int, int]:
        """Late file id → descriptor in `process`."""
        held = {entry.file_id for entry in process.descriptors}
        wanted = [file_id for file_id in self._late if file_id in held]
        if not wanted:
            return {}
        given = [self._ctx.descriptor(one) for one in wanted]
        return dict(zip(wanted, self._handover.give(given, self._blank(process).run), strict=True))

    def _descriptor_tables(self) -> None:
        for process in self._living:
            late = self._late_sources(process)
            places = {
                entry.fd: late[entry.file_id]
                if entry.file_id in late
                else self._ctx.descriptor(entry.file_id)
                for entry in process.descriptors
            }
            closing = {
                entry.fd: os.O_CLOEXEC if entry.close_on_exec else 0
                for entry in process.descriptors
            }
            calls = [
                call("dup3", place, fd, closing.get(fd, os.O_CLOEXEC))
                for place, fd in moves(places)
            ]
            calls += [
                call("fcntl", fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC if closing[fd] else 0)
                for fd, place in places.items()
                if fd == place
            ]
            position = 0
            for fd in sorted(entry.fd for entry in process.descriptors):
                if fd > position:
                    calls.append(call("close_range", position, fd - 1, 0))
                position = fd + 1
            calls.append(call("close_range", position, 0xFFFFFFFF, 0))
            for reply in self._blank(process).run(calls):
                reply.check()

    def _link(self) -> None:
        kinds = {kind.record: kind for kind in FILE_TYPES}
        holders: dict[int, tuple[ProcessImage, int]] = {}
        for process in self._living:
            for entry in process.descriptors:
                holders.setdefault(entry.file_id, (process, entry.fd))
        by_process: dict[int, list[Any]] = {}
        for record in self._image.files:
            if record.file_id in holders:
                process, fd = holders[record.file_id]
                remote = kinds[type(record)].link(self._ctx, record, self._blank(process), fd)
                by_process.setdefault(process.pid, []).append(remote)
        for pid, remotes in by_process.items():
            run_together(remotes, self._forest.processes[pid].run)
        self._run_stage(Stage.LINKS)

    # --- states ---

    def _blank(self, process: ProcessImage) -> BlankProcess:
        return self._forest.processes[process.pid]

    def _run_stage(self, stage: Stage) -> None:
        process_states = {state.record: state for state in PROCESS_STATES if state.stage == stage}
        thread_states = {state.record: state for state in THREAD_STATES if state.stage == stage}
        for process in self._living:
            blank = self._blank(process)
            remotes: list[Any] = [
                process_states[type(record)].restore(self._ctx, blank, record)
                for record in process.states
                if type(record) in process_states
            ]
            if process.pid not in {thread.tid for thread in process.threads}:
                run_together(remotes, self._executor(blank, process.pid))  # a leader yet to end
                remotes = []
            for thread in process.threads:
                remotes += [
                    thread_states[type(record)].restore(self._ctx, blank, thread.tid, record)
                    for record in thread.states
                    if type(record) in thread_states
                ]
                run_together(remotes, self._executor(blank, thread.tid))
                remotes = []

    @staticmethod
    def _executor(blank: BlankProcess, tid: int) -> Callable[[Sequence[Call]], Sequence[Reply]]:
        return lambda calls: blank.run(calls, tid)

    # --- memory ---

    def _fill(self, pid: int, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        ranges = list(self._contents.data_ranges(object_id))
        memory = proc.open_memory(pid)

        def write_directly(offset: int, data: memoryview) -> None:
            array = syscalls.shared_array(data)
            done = syscalls.write_memory_from(pid, [(offset, len(data))], array)
            assert done == len(data), "a mapping that was just made takes all bytes"

        def write_as_debugger(offset: int, data: memoryview) -> None:
            done = 0
            while done < len(data):
                done += os.pwrite(memory, data[done:], offset + done)

        try:
            self._contents.copy_to(object_id, intersection(ranges, writable), write_directly)
            self._contents.copy_to(object_id, difference(ranges, writable), write_as_debugger)
            # pages of mapped files that the program has written zeros to: the store keeps those as holes
            for start, end in difference(self._image.process(pid).memory.own_pages, ranges):
                write_as_debugger(start, memoryview(bytes(end - start)))
        finally:
            os.close(memory)

    # --- the end ---

    def _set_registers(self) -> None:
        for process in self._living:
            blank = self._blank(process)
            self._remove_arena(blank)
            for thread in process.threads:
                state = thread.state
                syscalls.set_xstate(thread.tid, state.xstate)
                syscalls.set_registers(thread.tid, resume_registers(thread.tid, state))
                syscalls.set_sigmask(thread.tid, state.sigmask)
            if process.pid not in {thread.tid for thread in process.threads}:
                self._set_exit(process.pid)

    def _set_exit(self, pid: int) -> None:
        """Registers with which the leader, once let go, ends as the one of the image did; the other threads stay."""
        registers = syscalls.get_registers(pid)
        registers.rip = _syscall_instruction(self._image, pid)
        registers.rax = syscalls.SYSCALL_NUMBERS["exit"]
        registers.rdi, registers.orig_rax = 0, (1 << 64) - 1
        syscalls.set_registers(pid, registers)
        syscalls.set_sigmask(pid, (1 << 64) - 1)

    def _remove_arena(self, blank: BlankProcess) -> None:
        """munmap(2) of the arena, by a `syscall` instruction of the vdso."""
        registers = syscalls.get_registers(blank.pid)
        registers.rip = _syscall_instruction(self._image, blank.pid)
        registers.rax = syscalls.SYSCALL_NUMBERS["munmap"]
        registers.rdi, registers.rsi = (
            self._forest.arena.base,
            self._forest.arena.end - self._forest.arena.base,
        )
        registers.orig_rax = (1 << 64) - 1
        syscalls.set_registers(blank.pid, registers)
        syscalls.step_over_call(blank.pid)
        assert syscalls.get_registers(blank.pid).rax == 0, "the arena was mapped"

    def _let_go(self, stopped: bool) -> None:
        for process in self._living:
            if stopped or process.is_stopped:
                os.kill(process.pid, signal.SIGSTOP)
        ours = {root.pid for root in self._image.roots()}
        for process in self._living:
            for tid in self._blank(process).threads:  # the leader first
                try:
                    syscalls.detach(tid)
                except (
                    TaskDiedError
                ):  # those that run already have ended it, or run another program
                    if tid not in ours:
                        _wait_end(tid)


def _stage(kind: Any) -> Stage:
    stage: Stage = kind.stage
    return stage


def _wait_end(tid: int) -> None:
    """A tracee is gone for others (its parent, execve(2) in its process) when its tracer has waited for it too."""
    with suppress(ChildProcessError):
        while os.WIFSTOPPED(os.waitpid(tid, syscalls.WALL)[1]):
            pass


def _syscall_instruction(image: Image, pid: int) -> int:
    vdso = next(vma for vma in image.process(pid).memory.vmas if vma.name == b"[vdso]")
    offset = syscalls.read_memory(pid, vdso.start, vdso.length).find(b"\x0f\x05")
    assert offset >= 0, "the vdso falls back to system calls"
    return vdso.start + offset


class _OnFailure:
    """Runs `undo` when the block is left by an exception, unless disarmed."""

    def __init__(self, undo: Callable[[], None]) -> None:
        self._undo: Callable[[], None] | None = undo

    def __enter__(self) -> "_OnFailure":
        return self

    def disarm(self) -> None:
        self._undo = None

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None and self._undo is not None:
            self._undo()
