"""Records of a stop: every resource of every process asked, what it says put together to an image.

Part of that happens `at_rest`, part `afterwards`, when the processes run again and only what was seen counts: all that
a resource `can_wait` with, if the process has the shape (threads, descriptors) that it had at the last capture. With
`is_asking` everything happens at rest. Names no resource. Single-threaded.
"""

import os
import platform
import resource
import time
from collections.abc import Container, Iterator, Mapping
from contextlib import ExitStack
from functools import lru_cache, partial
from typing import Any, Final

import msgspec

from sls import proc, syscalls
from sls.errors import UnsupportedResourceError
from sls.freeze import FrozenThread
from sls.image import DescriptorImage, Image, Inside, ProcessImage, ThreadImage
from sls.mount_tree import MountTree, enter
from sls.proc import FdInfo
from sls.ranges import Ranges, intersection, merged
from sls.remote import noted, run_together
from sls.resources import (
    FILE_TYPES,
    PROCESS_STATES,
    THREAD_STATES,
    CaptureContext,
    CapturedProcess,
    FileType,
    Memo,
    MemoryRecord,
    OpenFile,
    Parting,
    VmaKind,
)
from sls.session import Session, Shape

_OWN_FILES: Final = 256  # besides, at most: channels, buffers, what is opened for a moment
FIRST_CONTENT_OBJECT: Final = 1 << 32  # object numbers of contents other than private memory

_SOCKET: Final = b"socket:["
_KINDS: Final = {  # whether of sockets → the kinds, in the order in which they are asked
    are_sockets: [kind for kind in FILE_TYPES if kind.is_of_sockets is are_sockets]
    for are_sockets in (False, True)
}

State = Any  # a ProcessState or a ThreadState


class Reading:
    """The records of one stop. `cleanup` ends with it, `lasting` with the records."""

    def __init__(
        self,
        session: Session,
        cleanup: ExitStack,
        lasting: ExitStack,
        *,
        is_asking: bool,
        knows_all: bool = False,
        parting: Parting | None = None,
    ) -> None:
        self._session = session
        self._cleanup = cleanup
        self._lasting = lasting
        self._is_asking = is_asking
        self._knows_all = knows_all
        self._time_ns = time.time_ns()
        self.ctx = CaptureContext(session.processes, FIRST_CONTENT_OBJECT, parting)
        cleanup.callback(self.ctx.close)
        self._enter_trees()
        self._tables: dict[int, tuple[DescriptorImage, ...]] = {}
        self._alike: dict[
            tuple[bytes, int], list[OpenFile]
        ] = {}  # link and flags → descriptions, in the kernel's order
        self._files: dict[int, Any] = {}  # file id → record
        self._records: dict[tuple[int, State], Any] = {}  # (tid, state) → record
        self._zombies = list(self._read_zombies())
        self._leaders = {  # that have ended while other threads go on
            process.pid: proc.stat(process.pid)
            for process in session.processes
            if process.tid != process.pid
        }

    def at_rest(self) -> None:
        """What has to happen while everyone stands still."""
        session = self._session
        if not self._is_asking:
            session.repeat()
        changed = {process.pid for process in session.processes if self._has_changed(process)}
        can_wait = self._knows_all and all(map(_files_can_wait, session.processes))
        if changed or not can_wait:
            self._read_descriptors()
            self._capture_files(self._at_once(changed))
        for process in session.processes:
            self._capture_states(process, can_wait=process.pid not in changed)
        self._refuse_too_many()
        session.end()

    def afterwards(self) -> Image:
        """The image. MissedObservationError when something was not seen after all."""
        session = self._session
        if not self._tables:
            self._read_descriptors()
        self._capture_files(set(self.ctx.files))
        for process in session.processes:
            self._capture_states(process, can_wait=False)
            process.looks.confirm()
        return self._image()

    def tracked(self) -> list[CapturedProcess]:
        """Processes whose pages are tracked from this stop on."""
        members = self._session.members
        return [one for one in self._session.processes if members[one.pid].tracker.is_tracking]

    def _has_changed(self, process: CapturedProcess) -> bool:
        """Whether the process has to be asked anew. Notes its shape for the next time."""
        member = self._session.members[process.pid]
        before, member.shape = member.shape, _shape(process)
        return self._is_asking or before != member.shape

    def _enter_trees(self) -> None:
        """Tell each process what its paths are of, once for all that are in one mount namespace."""
        entered: dict[bytes, MountTree] = {}
        for process in self._session.processes:
            link = proc.link(process.tid, "ns/mnt")
            if link not in entered:
                entered[link] = enter(process.tid, link)
                if entered[link].link:
                    self._lasting.callback(os.close, entered[link].root)
            process.tree = entered[link]

    # --- states ---

    def _capture_states(self, process: CapturedProcess, *, can_wait: bool) -> None:
        """Capture what has not been yet of a process and its threads, but for what `can_wait`."""
        for thread in process.frozen.threads.values():
            states: list[State] = list(THREAD_STATES)
            if thread is process.frozen.leader:
                states += PROCESS_STATES
            due = [
                state
                for state in states
                if (thread.tid, state) not in self._records
                and not (can_wait and state.can_wait(process))
            ]
            if due:
                self._run(process, thread, due)

    def _run(self, process: CapturedProcess, thread: FrozenThread, due: list[State]) -> None:
        looks, tid = process.looks, thread.tid
        execute = self._session.executor(process, thread)
        remotes = []
        for state in due:
            is_of_thread = state in THREAD_STATES
            arguments = (process, thread) if is_of_thread else (process,)
            remote = state.capture(self.ctx, *arguments)
            remotes.append(noted(remote))
        answers = run_together(remotes, lambda calls: looks.replies(tid, calls, execute))
        for state, (_, calls) in zip(due, answers, strict=True):
            if state.can_wait(process):
                looks.expect(tid, calls)
        records = [record for record, _ in answers]
        self._records.update(
            {(tid, state): record for state, record in zip(due, records, strict=True)}
        )

    # --- the image ---

    def _image(self) -> Image:
        boot_id, kernel = describe_machine()
        return Image(
            time_ns=self._time_ns,
            boot_id=boot_id,
            kernel=kernel,
            processes=(*map(self._process, self._session.processes), *self._zombies),
            files=tuple(self._files[file_id] for file_id in sorted(self._files)),
            contents=tuple(content for content, _ in self.ctx.contents),
            losses=tuple(self.ctx.losses),
        )

    def _process(self, process: CapturedProcess) -> ProcessImage:
        frozen = process.frozen
        captured = self._session.members[process.pid].tracker.captured
        stat = self._leaders.get(process.pid, process.stat)
        threads = [
            ThreadImage(
                tid=tid,
                states=tuple(self._records[tid, state] for state in THREAD_STATES),
                inside=_inside_of_thread(process, tid),
            )
            for tid in sorted(frozen.threads, key=lambda tid: (tid != process.pid, tid))
        ]
        return ProcessImage(
            pid=process.pid, ppid=stat.ppid, pgid=stat.pgrp, sid=stat.session, comm=stat.comm,
            states=tuple(
                _with_own_pages(self._records[frozen.leader.tid, state], captured)
                for state in PROCESS_STATES
            ),
            threads=tuple(threads), descriptors=self._tables[process.pid],
            exit_signal=stat.exit_signal, is_stopped=process.is_stopped,
            inside=_inside(process.status),
        )  # fmt: skip

    def _read_zombies(self) -> Iterator[ProcessImage]:
        for pid in self._session.zombies:
            stat = proc.stat(pid)
            if stat.exit_code & 0x80:
                self.ctx.lose(pid, "exit status", "that it left a core is not told again")
            yield ProcessImage(
                pid=pid, ppid=stat.ppid, pgid=stat.pgrp, sid=stat.session, comm=stat.comm,
                exit_status=stat.exit_code, exit_signal=stat.exit_signal,
                inside=_inside(proc.status(pid)),
            )  # fmt: skip

    # --- open files ---

    def _read_descriptors(self) -> None:
        for process in self._session.processes:
            self._tables[process.pid] = tuple(
                self._descriptor(process, fd) for fd in _descriptors(process)
            )
        self._refuse_too_many()

    def _refuse_too_many(self) -> None:
        """All descriptions are held at once by a capture; by a restore also all contents, twice."""
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        files, contents = len(self.ctx.files), len(self.ctx.contents)
        if files + 2 * contents + _OWN_FILES > most:
            raise UnsupportedResourceError(
                max(self._tables, key=lambda pid: len(self._tables[pid])),
                "descriptors" if files > contents else "memory",
                f"{files} files and {contents} objects of shared memory, each twice, are open in all, and the "
                f"filesystem's daemon may hold {most}; raise its limit of open files (RLIMIT_NOFILE), or close some",
            )

    def _descriptor(self, process: CapturedProcess, fd: int) -> DescriptorImage:
        target = _descriptors(process)[fd]
        text = process.read(f"fdinfo/{fd}")
        info = process.memo.of(f"fdinfo {fd}", text, lambda: FdInfo(process.tid, fd, text))
        file_id = self._file_id(process, fd, target, info)
        self.ctx.descriptors[process.pid, fd] = file_id
        process.infos[fd] = info
        process.targets[fd] = target
        return DescriptorImage(
            fd=fd,
            file_id=file_id,
            close_on_exec=bool(info.flags & os.O_CLOEXEC),
            target=target,
            info=info.text,
        )

    def _file_id(self, process: CapturedProcess, fd: int, target: bytes, info: FdInfo) -> int:
        """The number of the open file description; kcmp(2) tells which descriptors share one, and orders the others."""
        alike = self._alike.setdefault((target, info.flags & ~os.O_CLOEXEC), [])
        first, last = 0, len(alike)
        while first < last:
            middle = (first + last) // 2
            known = alike[middle]
            two = (known.pid, known.fd, process.tid, fd)
            order = process.looks.meanwhile(two, partial(syscalls.compare_files, *two))
            if order == syscalls.KCMP_EQUAL:
                return known.file_id
            if order == syscalls.KCMP_LESS:
                first = middle + 1
            else:
                last = middle
        file = OpenFile(process, fd, target, info, len(self.ctx.files) + 1)
        alike.insert(first, file)
        self._cleanup.callback(file.close)
        self.ctx.files[file.file_id] = file
        return file.file_id

    def _at_once(self, changed: Container[int]) -> set[int]:
        """Files that must be captured while everyone stands still. Notes for the next time where there are none."""
        due = {
            file_id
            for file_id, file in self.ctx.files.items()
            if file.process.pid in changed or not kind_of(file).can_wait(file)
        }
        for process in self._session.processes:
            held = [one for one in self.ctx.files.values() if one.process is process]
            can_wait = all(kind_of(file).can_wait(file) for file in held)
            process.memo.put(_FILES_CAN_WAIT, b"", can_wait)
        return due

    def _capture_files(self, due: set[int]) -> None:
        """A record for each description that is `due` and has none; queues first, for they may hold more."""
        records, waiting = self._files, set(self.ctx.files) - due
        while left := [
            file
            for file_id, file in self.ctx.files.items()
            if file_id not in records and file_id not in waiting
        ]:
            kinds = {file.file_id: kind_of(file) for file in left}
            queues = [file for file in left if kinds[file.file_id].holds_files]
            for file in queues or left:
                records[file.file_id] = self._captured(kinds[file.file_id], file)

    def _captured(self, kind: FileType[Any], file: OpenFile) -> Any:
        with self.ctx.network_of(file) as network:
            record = kind.capture(self.ctx, file)
        mounts = file.tree.link
        if not network and not mounts:
            return record
        return msgspec.structs.replace(record, network=network, mounts=mounts)


def _inside(status: Mapping[str, str]) -> Inside | None:
    numbers = proc.numbers_below(status)
    if not numbers.process:
        return None
    return Inside(pid=numbers.process, pgid=numbers.group, sid=numbers.session)


def _inside_of_thread(process: CapturedProcess, tid: int) -> tuple[int, ...]:
    if not proc.numbers_below(process.status).task:
        return ()
    return proc.numbers_below(process.status_of(tid)).task


_DESCRIPTORS: Final = "descriptors"
_FILES_CAN_WAIT: Final = "files can wait"


def _files_can_wait(process: CapturedProcess) -> bool:
    """Whether all files that were found with this process the last time can wait."""
    return process.memo.of(_FILES_CAN_WAIT, b"", lambda: False)


def _descriptors(process: CapturedProcess) -> dict[int, bytes]:
    """Descriptors, ascending, and their links."""
    look = partial(_look_at_descriptors, process.memo, process.tid)
    return process.looks.meanwhile("descriptors", look)


def _look_at_descriptors(memo: Memo, tid: int) -> dict[int, bytes]:
    known: tuple[int, ...] = memo.of(_DESCRIPTORS, b"", tuple)
    found = proc.descriptors(tid, known)
    memo.put(_DESCRIPTORS, b"", tuple(found))
    return found


def _shape(process: CapturedProcess) -> Shape:
    """What tells that a process may be asked as it was the last time: its threads, and what its descriptors are."""
    return (tuple(process.frozen.threads), *_descriptors(process).items())


@lru_cache(maxsize=1)
def describe_machine() -> tuple[str, str]:
    """(boot id, kernel release)."""
    return proc.boot_id(), platform.release()


def _with_own_pages(record: Any, captured: Ranges) -> Any:
    """A record of memory with what the pages told: which of mapped files the process has made its own."""
    if not isinstance(record, MemoryRecord):
        return record
    mapped = merged(
        (vma.start, vma.end)
        for vma in record.vmas
        if not vma.is_shared and vma.kind not in (VmaKind.ANONYMOUS, VmaKind.KERNEL)
    )
    return msgspec.structs.replace(record, own_pages=tuple(intersection(captured, mapped)))


def kind_of(file: OpenFile) -> FileType[Any]:
    """The kind that a file is of. UnsupportedResourceError when it is of none."""
    for kind in _KINDS[file.target.startswith(_SOCKET)]:
        if kind.matches(file):
            return kind
    raise file.unsupported(f"{file.target.decode(errors='replace')} is not supported")
