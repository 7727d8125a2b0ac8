"""Blank processes: empty shells that a restore fills, made with the numbers that they had.

The first one, the *seed*, is a tiny program run from a memfd; it carries every descriptor that the restored processes
are to hold, and the arena at an address that is free in all of them. All others are cloned from it or from each other
(clone3(2) with set_tid), so that parents, sessions and groups come out as they were. Every blank stands in a ptrace
stop from its birth on. Single-threaded: ptrace belongs to one thread.
"""

import errno
import os
import resource
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from sls import numbers, proc, syscalls
from sls.errors import ImageError, RestoreConflictError, TaskDiedError
from sls.image import Image, ProcessImage
from sls.pid_namespaces import PidNamespaces, depth
from sls.proc import VmaLine
from sls.remote import ARENA_BYTES, Arena, Borrowed, Call, In, Reply, call, find_hole

_SPARE_BYTES: Final = 1 << 20
_CLONE_VM, _CLONE_FS, _CLONE_FILES, _CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
_CLONE_PARENT, _CLONE_THREAD, _CLONE_SYSVSEM = 0x8000, 0x10000, 0x40000
_CLONE_NEWPID: Final = 0x20000000
_STEERINGS: Final = 100
_NO_GROUP: Final = -1  # setpgid(2) refuses it
_THREAD_FLAGS: Final = (
    _CLONE_VM | _CLONE_FS | _CLONE_FILES | _CLONE_SIGHAND | _CLONE_THREAD | _CLONE_SYSVSEM
)
_ALL_SIGNALS: Final = (1 << 64) - 1
# First those that come also where none may be queued (RLIMIT_SIGPENDING), and that nothing sends during a restore.
_STOP_SIGNALS: Final = (
    *(signal.SIGURG, 16, signal.SIGPWR, signal.SIGUSR2, signal.SIGUSR1, signal.SIGXFSZ),
    *range(64, 31, -1),
)
_WALL: Final = syscalls.WALL
_PR_SET_CHILD_SUBREAPER: Final = 36


def _elf() -> bytes:
    """A whole program of 121 bytes (elf(5)): one segment, and `pause` in a loop."""
    base = 0x10000
    code = b"\xb8\x22\x00\x00\x00\x0f\x05\xeb\xf7"  # 1: mov eax, 34; syscall; jmp 1b
    head = struct.pack(
        "=16sHHIQQQIHHHHHH",
        b"\x7fELF\x02\x01\x01",
        2,
        62,
        1,
        base + 120,
        64,
        0,
        0,
        64,
        56,
        1,
        0,
        0,
        0,
    )
    segment = struct.pack("=IIQQQQQQ", 1, 5, 0, base, base, 120 + len(code), 120 + len(code), 4096)
    return head + segment + code


class BlankThread:
    """One stopped thread of a blank process."""

    def __init__(
        self,
        pid: int,
        tid: int,
        stop_signal: int = signal.SIGURG,
        numbers: tuple[int, int] | None = None,
    ) -> None:
        self.tid = tid
        registers = syscalls.get_registers(tid)
        self.borrowed = Borrowed(pid, tid, registers, _ALL_SIGNALS, stop_signal, numbers)


class BlankProcess:
    """A process on its way back; satisfies `sls.resources.RestoredProcess`."""

    def __init__(self, forest: "Forest", image: ProcessImage) -> None:
        self.pid = image.pid
        self.sid = image.sid
        self._depth = depth(image)
        # one that does not wait in the image: it would be delivered here
        queued = image.queued_signals()
        free = (number for number in _STOP_SIGNALS if number not in queued)
        self.stop_signal = int(next(free, signal.SIGURG))
        self.layout: Sequence[VmaLine] = forest.layout
        self.spare_address = forest.spare_address
        self._forest = forest
        self.threads: dict[int, BlankThread] = {}
        self.add_thread(image.pid)

    @property
    def arena_place(self) -> tuple[int, int]:
        return self._forest.arena.base, self._forest.arena.end

    def add_thread(self, tid: int) -> None:
        """One more that has been made."""
        self.threads[tid] = self._forest.blank(self.pid, tid, self.stop_signal)

    def is_arena(self, vma: VmaLine) -> bool:
        start, end = self.arena_place
        return start <= vma.start < end

    def own_number(self, number: int) -> int:
        if not self._depth:
            return number
        inside = self._forest.inside.get(number, ())
        return inside[self._depth - 1] if len(inside) >= self._depth else 0

    def run(self, calls: Sequence[Call], tid: int = 0) -> list[Reply]:
        """Make calls in one thread, the leader by default."""
        return self._forest.arena.run(self.threads[tid or self.pid].borrowed, calls)

    def fill(self, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        self._forest.fill(self.pid, object_id, writable)


Filler = Callable[[int, int, Sequence[tuple[int, int]]], None]
"""Writes object `object_id` of the generation into process `pid`, whose own `writable` ranges are given."""


MakesCalls = Callable[[ProcessImage], Sequence[Call]]
"""What a process does at some point, as its image says."""


MakesCallsAs = Callable[[ProcessImage, int], Sequence[Call]]
"""The same, made by the process of that number."""


class Forest:
    """All blank processes of one restore. `kill` undoes everything; `release` ends only the seed.

    `leading`: what a process does once it leads a session and before it has children; `alone`: before it has threads.
    """

    def __init__(
        self, image: Image, filler: Filler, leading: MakesCalls, alone: MakesCallsAs
    ) -> None:
        self.processes: dict[int, BlankProcess] = {}
        self._filler = filler
        self._leading = leading
        self._alone = alone
        self._image = image
        self.notes: list[str] = []
        self._strays: list[ProcessImage] = []
        self._leaders: dict[tuple[int, int], Borrowed] = {}
        # with a parent that is no stranger, and what that calls it
        self._stand_ins: list[tuple[int, Borrowed | None, int]] = []
        self._namespaces = PidNamespaces(image)
        self.inside = self._namespaces.numbers
        self._waiting: list[ProcessImage] = []  # for the first process of a pid namespace
        layouts = [
            [VmaLine(vma.start, vma.end, "", 0, 0, 0, 0, b"") for vma in process.memory.vmas]
            for process in image.processes
            if process.exit_status is None
        ]
        base = find_hole([*layouts, _own_style_layout()], ARENA_BYTES + _SPARE_BYTES)
        self.spare_address = base + ARENA_BYTES
        self._spawn_seed(base)

    # --- the seed ---

    def _spawn_seed(self, base: int) -> None:
        program = os.memfd_create("sls-seed", os.MFD_CLOEXEC)
        try:
            os.write(program, _elf())
            self.seed_pid = os.posix_spawn(
                f"/proc/self/fd/{program}",
                [b"seed"],
                {},
                setsigmask=[],
                setsigdef=signal.valid_signals(),
            )
        finally:
            os.close(program)
        # what is made of the seed inherits the option: until it is let go, it ends with this process
        syscalls.seize(self.seed_pid, syscalls.TRACE_OPTIONS | syscalls.PTRACE_O_EXITKILL)
        syscalls.interrupt(self.seed_pid)
        syscalls.wait_stop(self.seed_pid)
        maps = proc.parse_maps(proc.read(self.seed_pid, "maps"))
        seed = BlankThread(self.seed_pid, self.seed_pid)
        self._seed = seed
        self.arena = Arena.create(seed.borrowed, maps, base, is_inherited=True)
        self.layout = maps

    def fill(self, pid: int, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        self._filler(pid, object_id, writable)

    def blank(self, pid: int, tid: int, stop_signal: int = signal.SIGURG) -> BlankThread:
        """A thread that stands in its first stop."""
        if not self.inside:
            return BlankThread(pid, tid, stop_signal)
        below = proc.numbers_below(proc.status(pid, tid))
        numbers = (below.process[-1], below.task[-1]) if below.task else None
        return BlankThread(pid, tid, stop_signal, numbers)

    # --- processes and threads ---

    def grow(self) -> None:
        """Make every process and thread of the image, in their sessions and groups; zombies end at last."""
        natural: list[ProcessImage] = []
        for root in self._image.roots():
            if self._must_wait(root):
                self._waiting.append(root)
            else:
                (self._strays if self._is_stray(root) else natural).append(root)
        for root in natural:
            self._make_root(root)
        self._make_others()
        self._set_groups()
        for image in self._image.processes:
            if image.exit_status is None:
                self._make_threads(image)
        for image in self._image.processes:
            self._enter_for_children(image)
        self._end_stand_ins()
        for image in self._image.processes:
            if image.exit_status is not None:
                self._end_zombie(image.pid, image.exit_status)

    def _make_others(self) -> None:
        """Strays, and whoever had to wait for somebody: each may let others go on."""
        while self._strays or self._waiting:
            ready = [one for one in self._waiting if not self._must_wait(one)]
            self._waiting = [one for one in self._waiting if self._must_wait(one)]
            if not ready and not self._strays:
                pids = ", ".join(str(one.pid) for one in self._waiting)
                raise ImageError(
                    f"nobody begins the pid namespace of {pids}; choose another generation"
                )
            for image in ready:
                self._make_late(image)
            if not ready:
                self._make_stray(self._strays.pop(0))

    def _must_wait(self, image: ProcessImage) -> bool:
        """Whether it enters a pid namespace that is not there yet."""
        first = self._namespaces.entered(image)
        return first is not None and first.pid not in self.processes

    def _make_late(self, image: ProcessImage) -> None:
        parent = self.processes.get(image.ppid)
        if parent is not None and image.sid in (image.pid, parent.sid):
            self._make_child(image, parent.threads[parent.pid].borrowed)
        elif parent is None and not self._is_stray(image):
            self._make_root(image)
        else:
            self._strays.append(image)

    def _is_stray(self, root: ProcessImage) -> bool:
        """Whether the root belongs to a session of the image that it did not inherit from this process."""
        return root.sid not in (root.pid, os.getsid(0)) and any(
            one.sid == root.sid and one.pid == root.sid for one in self._image.processes
        )

    def _make_root(self, root: ProcessImage) -> None:
        origin = self._seed.borrowed
        if root.sid not in (root.pid, os.getsid(0)):
            origin = self._stand_in_leader(root.sid, origin, _CLONE_PARENT)
        self._make(root, origin, _CLONE_PARENT)

    def _make(self, image: ProcessImage, origin: Borrowed, flags: int) -> None:
        """Make one process from `origin`, then its children: those of its birth session before it leaves that."""
        if image.is_init and image.pid_namespaces.owner:
            pid = self._clone_apart(image, origin, flags)
        elif (first := self._namespaces.entered(image)) is not None:
            pid = self._clone_entering(image, first, origin, flags)
        else:
            if image.is_init and not self._namespaces.is_in_unshared(image):
                flags |= _CLONE_NEWPID
            pid = self._clone(origin, image.pid, flags, image.exit_signal)
        process = self._born(image, pid)
        below = [one for one in self._image.processes if one.ppid == image.pid != one.pid]
        self._waiting += [one for one in below if self._must_wait(one)]
        below = [one for one in below if not self._must_wait(one)]
        below.sort(key=lambda one: (self._namespaces.is_in_unshared(one), not one.is_init))
        birth_session = proc.stat(image.pid).session
        mine = process.threads[image.pid].borrowed
        leads = image.sid == image.pid
        early = [one for one in below if leads and one.sid == birth_session]
        for one in early:
            self._make_child(one, mine)
        if leads:
            self.arena.run(mine, [call("setsid"), *self._leading(image)])[0].check()
        for one in below:
            if one.sid in (one.pid, image.sid):
                self._make_child(one, mine)
            elif one not in early:
                self._strays.append(one)

    def _make_child(self, image: ProcessImage, parent: Borrowed) -> None:
        """A parent that has unshared its pid namespace is itself not in it; its next child is the first there."""
        is_first = image.is_init and self._namespaces.is_in_unshared(image)
        is_apart = bool(image.pid_namespaces.owner)
        if is_first and not is_apart:
            self.arena.run(parent, [call("unshare", _CLONE_NEWPID)])[0].check()
        self._make(image, parent, 0)
        if is_first and is_apart:
            self._enter(parent, image)

    def _clone_apart(self, image: ProcessImage, origin: Borrowed, flags: int) -> int:
        """The first of a pid namespace that belongs to a user namespace: who makes it must be in that.

        So somebody else goes to all namespaces of the process in its stead, and ends when it is there.
        """
        with self._go_between(image, origin, flags) as borrowed:
            for reply in self.arena.run(borrowed, self._alone(image, borrowed.pid)):
                reply.check()
            return self._clone(borrowed, image.pid, _CLONE_PARENT | _CLONE_NEWPID)

    def _clone_entering(
        self, image: ProcessImage, first: ProcessImage, origin: Borrowed, flags: int
    ) -> int:
        """One whose parent is not in its pid namespace, nor has begun that."""
        with self._go_between(image, origin, flags) as borrowed:
            self._enter(borrowed, first)
            return self._clone(borrowed, image.pid, _CLONE_PARENT)

    @contextmanager
    def _go_between(self, image: ProcessImage, origin: Borrowed, flags: int) -> Iterator[Borrowed]:
        """A sibling of the process to be made, that makes it and ends."""
        pid = self._clone(origin, 0, flags, image.exit_signal)
        borrowed = self.blank(pid, pid).borrowed
        yield borrowed
        _end([pid])
        if not flags & _CLONE_PARENT:
            self.arena.run(origin, [call("wait4", borrowed.numbers[0], 0, _WALL, 0)])

    def _enter(self, borrowed: Borrowed, first: ProcessImage) -> None:
        """Its children are in the pid namespace of `first` from now on."""
        level = len(proc.numbers_below(proc.status(borrowed.pid)).process)
        number = self.inside[first.pid][level - 1] if level else first.pid
        (opened,) = self.arena.run(borrowed, [call("pidfd_open", number, 0)])
        pidfd = opened.check()
        calls = [call("setns", pidfd, _CLONE_NEWPID), call("close", pidfd)]
        self.arena.run(borrowed, calls)[0].check()

    def _enter_for_children(self, image: ProcessImage) -> None:
        """Once its threads are there: none can be made after that."""
        first = self._namespaces.entered_for_children(image)
        if first is not None:
            self._enter(self.processes[image.pid].threads[image.pid].borrowed, first)
        if image.pid_namespaces.unshared_for_children:
            self.processes[image.pid].run([call("unshare", _CLONE_NEWPID)])[0].check()

    def _born(self, image: ProcessImage, pid: int) -> BlankProcess:
        process = self.processes[pid] = BlankProcess(self, image)
        return process

    def _make_stray(self, image: ProcessImage) -> None:
        """Make a process whose session is not its parent's: an orphan that its parent took in, as a subreaper.

        It is made in its session by someone who ends at once; then it is an orphan again. Where no process of the
        session is left, a stand-in leads it.
        """
        parent = self.processes.get(image.ppid)
        origin = self._ancestor_in_session(image)
        if origin is not None:
            self._make_orphan(image, origin, parent)
        elif parent is None:
            self._make_root(image)
        else:
            mine = parent.threads[parent.pid].borrowed
            self._make(image, self._stand_in_leader(image.sid, mine, 0), _CLONE_PARENT)

    def _ancestor_in_session(self, image: ProcessImage) -> BlankProcess | None:
        """A process of the session from which an orphan comes to its parent: one below that parent."""
        parents = {one.pid: one.ppid for one in self._image.processes}
        for pid, process in self.processes.items():
            above = pid
            while above in parents and above != image.ppid:
                above = parents[above]
            if process.sid == image.sid and above == image.ppid:
                return process
        return None

    def _make_orphan(
        self, image: ProcessImage, origin: BlankProcess, parent: BlankProcess | None
    ) -> None:
        mine = origin.threads[origin.pid].borrowed
        between = self._clone(mine, 0, 0)
        borrowed = self.blank(between, between).borrowed
        number, _ = borrowed.numbers
        self._make(image, borrowed, 0)
        self._take_in(parent, 1)
        _end([between])
        self._take_in(parent, 0)
        self.arena.run(mine, [call("wait4", number, 0, _WALL, 0)])

    def _take_in(self, parent: BlankProcess | None, flag: int) -> None:
        """Whether orphans go to `parent`; to this process when it is None."""
        if parent is None:
            syscalls.syscall("prctl", _PR_SET_CHILD_SUBREAPER, flag, 0, 0, 0)
        else:
            parent.run([call("prctl", _PR_SET_CHILD_SUBREAPER, flag)])[0].check()

    def _clone(
        self, origin: Borrowed, wanted: int, flags: int, exit_signal: int = signal.SIGCHLD
    ) -> int:
        """clone3(2) in `origin`; `wanted` 0 takes any number. RestoreConflictError when the number is in use."""
        if flags & (_CLONE_PARENT | _CLONE_THREAD):
            exit_signal = 0
        everywhere = (*reversed(self.inside.get(wanted, ())), wanted) if wanted else ()
        clone = _clone_call(flags, exit_signal, everywhere)
        since = time.monotonic()
        while True:
            (reply,) = self.arena.run(origin, [clone])
            if -reply.value == errno.EPERM and wanted:
                return self._clone_steered(origin, wanted, flags, exit_signal)
            is_taken = -reply.value == errno.EEXIST
            if not is_taken or not numbers.is_worth_waiting_for(wanted, since):
                break
        if is_taken:
            raise RestoreConflictError(
                f"pid {wanted} is in use by {numbers.name(wanted)}; end it, or restore with `kill`"
            )
        reply.check()
        born = origin.births.pop()  # by our number, where the reply has the origin's
        assert not origin.births, "it makes one at a time"
        syscalls.wait_stop(born)
        return born

    def _clone_steered(self, origin: Borrowed, wanted: int, flags: int, exit_signal: int) -> int:
        """Who is in a user namespace below ours may not choose a number here: the next one that is given is set."""
        clone = _clone_call(flags, exit_signal, tuple(reversed(self.inside.get(wanted, ()))))
        for _ in range(_STEERINGS):
            numbers.give_next(wanted)
            (reply,) = self.arena.run(origin, [clone])
            reply.check()
            born = origin.births.pop()
            syscalls.wait_stop(born)
            if born == wanted:
                return born
            self._end_wrong(origin, born, flags)
        raise RestoreConflictError(f"pid {wanted} is in use by {numbers.name(wanted)}; end it")

    def _end_wrong(self, origin: Borrowed, born: int, flags: int) -> None:
        """Somebody else got the number first."""
        if flags & _CLONE_THREAD:
            thread = self.blank(origin.pid, born).borrowed
            with suppress(TaskDiedError):
                self.arena.run(thread, [call("exit", 0)])
            return
        number = self.blank(born, born).borrowed.numbers[0]
        _end([born])
        if not flags & _CLONE_PARENT:
            self.arena.run(origin, [call("wait4", number, 0, _WALL, 0)])

    # --- sessions and groups ---

    def _stand_in_leader(self, sid: int, origin: Borrowed, flags: int) -> Borrowed:
        """A process that leads the session `sid` whose real leader is gone; it ends when all is made."""
        known = self._leaders.get((sid, origin.pid))
        if known is not None:
            return known
        try:
            pid = self._clone(origin, sid, flags)
        except RestoreConflictError:
            self.notes.append(
                f"session {sid} has another leader now; a new session stands in for it"
            )
            pid = self._clone(origin, 0, flags)
        borrowed = self.blank(pid, pid).borrowed
        self._stand_ins.append((pid, None if flags else origin, borrowed.numbers[0]))
        self.arena.run(borrowed, [call("setsid")])[0].check()
        self._leaders[sid, origin.pid] = borrowed
        return borrowed

    def _set_groups(self) -> None:
        inside = {one.pid for one in self._image.processes}
        leading = [one for one in self._image.processes if one.pgid == one.pid != one.sid]
        joining = [one for one in self._image.processes if one.pgid != one.pid]
        for one in leading:
            self.processes[one.pid].run([call("setpgid", 0, 0)])[0].check()
        for one in joining:
            blank = self.processes[one.pid]
            if proc.stat(one.pid).pgrp == one.pgid:
                continue
            join = call("setpgid", 0, blank.own_number(one.pgid) or _NO_GROUP)
            (reply,) = blank.run([join])
            if reply.failed and one.pgid not in inside and self._stand_in_group(one):
                (reply,) = blank.run([join])
            if reply.failed:
                self.notes.append(
                    f"process group {one.pgid} of pid {one.pid} belongs to others now"
                )

    def _stand_in_group(self, image: ProcessImage) -> bool:
        """Make the group of a process whose group leader is gone. False when its number is taken."""
        mine = self.processes[image.pid].threads[image.pid].borrowed
        if len(self.inside.get(image.pgid, ())) < depth(image):
            return False  # one of another namespace
        try:
            pid = self._clone(mine, image.pgid, 0)
        except RestoreConflictError:
            return False
        borrowed = self.blank(pid, pid).borrowed
        self._stand_ins.append((pid, mine, borrowed.numbers[0]))
        self.arena.run(borrowed, [call("setpgid", 0, 0)])[0].check()
        return True

    def _make_threads(self, image: ProcessImage) -> None:
        process = self.processes[image.pid]
        leader = process.threads[image.pid].borrowed
        calls = self._alone(image, image.pid)
        for reply in process.run(calls) if calls else ():
            reply.check()
        for thread in image.threads:
            if thread.tid != image.pid:
                tid = self._clone(leader, thread.tid, _THREAD_FLAGS)
                process.add_thread(tid)

    # --- those that do not stay ---

    def _end_stand_ins(self) -> None:
        """Sessions and groups live on in their members. A parent that is a blank process waits for its child."""
        _end([pid for pid, _, _ in self._stand_ins])
        for _, parent, number in self._stand_ins:
            if parent is not None:
                self.arena.run(parent, [call("wait4", number, 0, _WALL, 0)])
        self._stand_ins.clear()

    def _end_zombie(self, pid: int, status: int) -> None:
        """Let a process end as it ended; its parent is yet to wait for it."""
        blank = self.processes.pop(pid)
        number = status & 0x7F
        try:
            if not number:
                blank.run([call("exit_group", status >> 8 & 0xFF)])
            resource.prlimit(pid, resource.RLIMIT_CORE, (0, 0))
            syscalls.set_sigmask(pid, 0)
            os.kill(pid, number)
            syscalls.resume(pid)
            while True:
                syscalls.resume(pid, syscalls.wait_stop(pid).signal)
        except TaskDiedError:
            return

    # --- ends ---

    def release(self) -> None:
        """End the seed; the restored processes stay."""
        _end([self.seed_pid])
        self.arena.close()

    def kill(self) -> None:
        """End everything that was made."""
        _end([*self.processes, *(pid for pid, _, _ in self._stand_ins), self.seed_pid])
        self.arena.close()


def _clone_call(flags: int, exit_signal: int, numbers_wanted: Sequence[int]) -> Call:
    """clone3(2); the numbers are those in each pid namespace, the innermost first."""
    count = len(numbers_wanted)
    arguments = struct.pack("=11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, count, 0)
    pointers = ((64, In(struct.pack(f"={count}i", *numbers_wanted))),) if count else ()
    return call("clone3", In(arguments, pointers), 88)


def _own_style_layout() -> list[VmaLine]:
    """Where a fresh program's stack and vdso may lie: the top of the address space, and the blank's own segment."""
    return [
        VmaLine(0, 1 << 32, "", 0, 0, 0, 0, b""),
        VmaLine(0x7000_0000_0000, 1 << 47, "", 0, 0, 0, 0, b""),
    ]


def _end(pids: Sequence[int]) -> None:
    """SIGKILL, and wait, for who was made last first.

    A traced leader's end is told only when its threads, tracees too, were waited for; that of the first process of a
    pid namespace when all others in it were.
    """
    threads = [tid for pid in pids for tid in _threads(pid) if tid != pid]
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for tid in (*threads, *reversed(pids)):
        with suppress(ChildProcessError):
            while not os.WIFSIGNALED(os.waitpid(tid, syscalls.WALL)[1]):
                pass


def _threads(pid: int) -> list[int]:
    try:
        return proc.entries(pid, "task")
    except TaskDiedError:
        return []
