"""Blank processes: empty shells that a restore fills, made with the numbers that they had.

The first one, the *seed*, is a tiny program run from a memfd; it carries every descriptor that the restored processes
are to hold, and the arena at an address that is free in all of them. All others are cloned from it or from each other
(clone3(2) with set_tid), so that parents, sessions and groups come out as they were. Every blank stands in a ptrace
stop from its birth on. Single-threaded: ptrace belongs to one thread.
"""

import os
import signal
import struct
from collections.abc import Callable, Sequence
from typing import Final

from sls import proc, syscalls
from sls.errors import RestoreConflictError, TaskDiedError
from sls.image import Image, ProcessImage
from sls.proc import VmaLine
from sls.remote import ARENA_BYTES, Arena, Borrowed, Call, In, Reply, call, find_hole

_SPARE_BYTES: Final = 1 << 20
_CLONE_VM, _CLONE_FS, _CLONE_FILES, _CLONE_SIGHAND = 0x100, 0x200, 0x400, 0x800
_CLONE_PARENT, _CLONE_THREAD, _CLONE_SYSVSEM = 0x8000, 0x10000, 0x40000
_THREAD_FLAGS: Final = (
    _CLONE_VM | _CLONE_FS | _CLONE_FILES | _CLONE_SIGHAND | _CLONE_THREAD | _CLONE_SYSVSEM
)
_ALL_SIGNALS: Final = (1 << 64) - 1


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

    def __init__(self, pid: int, tid: int) -> None:
        self.tid = tid
        self.borrowed = Borrowed(
            pid, tid, syscalls.get_registers(tid), _ALL_SIGNALS, int(signal.SIGURG)
        )


class BlankProcess:
    """A process on its way back; satisfies `sls.resources.RestoredProcess`."""

    def __init__(self, forest: "Forest", pid: int, sid: int) -> None:
        self.pid = pid
        self.sid = sid
        self.threads: dict[int, BlankThread] = {pid: BlankThread(pid, pid)}
        self.layout: Sequence[VmaLine] = forest.layout
        self.spare_address = forest.spare_address
        self._forest = forest

    def is_arena(self, vma: VmaLine) -> bool:
        return self._forest.arena.base <= vma.start < self._forest.arena.end

    def run(self, calls: Sequence[Call], tid: int = 0) -> list[Reply]:
        """Make calls in one thread, the leader by default."""
        return self._forest.arena.run(self.threads[tid or self.pid].borrowed, calls)

    def fill(self, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        self._forest.fill(self.pid, object_id, writable)


Filler = Callable[[int, int, Sequence[tuple[int, int]]], None]
"""Writes object `object_id` of the generation into process `pid`, whose own `writable` ranges are given."""


class Forest:
    """All blank processes of one restore. `kill` undoes everything; `release` ends only the seed."""

    def __init__(self, image: Image, filler: Filler) -> None:
        self.processes: dict[int, BlankProcess] = {}
        self._filler = filler
        self._image = image
        self._groups: dict[int, int] = {}
        self._extra: list[int] = []  # seed and stand-in leaders, ended by `release`
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
        self._extra.append(self.seed_pid)
        syscalls.seize(self.seed_pid)
        syscalls.interrupt(self.seed_pid)
        syscalls.wait_stop(self.seed_pid)
        maps = proc.parse_maps(proc.read(self.seed_pid, "maps"))
        seed = BlankThread(self.seed_pid, self.seed_pid)
        self._seed = seed
        self.arena = Arena.create(seed.borrowed, maps, base)
        self.layout = maps

    def fill(self, pid: int, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        self._filler(pid, object_id, writable)

    # --- processes and threads ---

    def grow(self) -> None:
        """Make every process and thread of the image, in their sessions and groups."""
        leaders: dict[int, Borrowed] = {}
        for root in self._image.roots():
            origin = leaders.get(root.sid)
            if origin is None:
                origin = self._seed.borrowed
                if root.sid != root.pid:
                    origin = leaders[root.sid] = self._stand_in_leader(root.sid)
            self._make(root, origin, flags=_CLONE_PARENT)
        self._set_groups()
        for process in self._image.processes:
            self._make_threads(process)

    def _make(self, image: ProcessImage, origin: Borrowed, flags: int) -> None:
        """Make one process from `origin`, then its children: those of its birth session before it leaves that."""
        pid = self._clone(origin, image.pid, flags)
        process = BlankProcess(self, pid, image.sid)
        self.processes[pid] = process
        below = [one for one in self._image.processes if one.ppid == pid and one.pid != pid]
        leads = image.sid == image.pid
        early = [one for one in below if leads and one.sid not in (image.sid, one.pid)]
        mine = process.threads[pid].borrowed
        for one in early:
            self._make(one, mine, 0)
        if leads:
            self.arena.run(mine, [call("setsid")])[0].check()
        for one in below:
            if one not in early:
                self._make(one, mine, 0)

    def _clone(self, origin: Borrowed, wanted: int, flags: int) -> int:
        """clone3(2) in `origin`; `wanted` 0 takes any number. RestoreConflictError when the number is in use."""
        exit_signal = 0 if flags & (_CLONE_PARENT | _CLONE_THREAD) else int(signal.SIGCHLD)
        number = In(struct.pack("=i", wanted))
        arguments = struct.pack("=11Q", flags, 0, 0, 0, exit_signal, 0, 0, 0, 0, int(wanted > 0), 0)
        pointers = ((64, number),) if wanted else ()
        (reply,) = self.arena.run(origin, [call("clone3", In(arguments, pointers), 88)])
        if reply.failed and -reply.value == 17:
            raise RestoreConflictError(
                f"pid {wanted} is in use by {_name(wanted)}; end it, or restore with `kill` or `clone`"
            )
        born = reply.check()
        origin.births.remove(born)
        syscalls.wait_stop(born)
        return born

    def _stand_in_leader(self, sid: int) -> Borrowed:
        """A process that leads the session `sid` whose real leader is not in the image; it ends when all is made."""
        try:
            pid = self._clone(self._seed.borrowed, sid, _CLONE_PARENT)
        except RestoreConflictError:
            pid = self._clone(self._seed.borrowed, 0, _CLONE_PARENT)
        self._extra.append(pid)
        borrowed = BlankThread(pid, pid).borrowed
        self.arena.run(borrowed, [call("setsid")])[0].check()
        return borrowed

    def _set_groups(self) -> None:
        inside = {one.pid: one for one in self._image.processes}
        leading = [one for one in self._image.processes if one.pgid == one.pid != one.sid]
        joining = [one for one in self._image.processes if one.pgid != one.pid]
        for one in leading:
            self.processes[one.pid].run([call("setpgid", 0, 0)])[0].check()
        for one in joining:
            group = one.pgid
            if group not in inside:
                group = self._stand_in_group(one)
            (reply,) = self.processes[one.pid].run([call("setpgid", 0, group)])
            reply.check()

    def _stand_in_group(self, image: ProcessImage) -> int:
        """A group for a process whose group leader is not in the image: of the old number if that is free."""
        current = proc.stat(image.pid).pgrp
        if current == image.pgid:
            return current
        known = self._groups.get(image.pgid)
        if known is not None:
            return known
        try:
            pid = self._clone(self.processes[image.pid].threads[image.pid].borrowed, image.pgid, 0)
        except RestoreConflictError:
            self._groups[image.pgid] = current
            return current
        self._extra.append(pid)
        self.arena.run(BlankThread(pid, pid).borrowed, [call("setpgid", 0, 0)])[0].check()
        self._groups[image.pgid] = pid
        return pid

    def _make_threads(self, image: ProcessImage) -> None:
        process = self.processes[image.pid]
        leader = process.threads[image.pid].borrowed
        for thread in image.threads:
            if thread.tid != image.pid:
                tid = self._clone(leader, thread.tid, _THREAD_FLAGS)
                process.threads[tid] = BlankThread(image.pid, tid)

    # --- ends ---

    def release(self) -> None:
        """End the seed and stand-ins; the restored processes stay."""
        _end(self._extra)
        self.arena.close()

    def kill(self) -> None:
        """End everything that was made."""
        _end([*self.processes, *self._extra])


def _own_style_layout() -> list[VmaLine]:
    """Where a fresh program's stack and vdso may lie: the top of the address space, and the blank's own segment."""
    return [
        VmaLine(0, 1 << 32, "", 0, 0, 0, 0, b""),
        VmaLine(0x7000_0000_0000, 1 << 47, "", 0, 0, 0, 0, b""),
    ]


def _name(pid: int) -> str:
    try:
        return proc.stat(pid).comm.decode(errors="replace")
    except TaskDiedError:
        return "another task"


def _end(pids: Sequence[int]) -> None:
    for pid in pids:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    for pid in pids:
        try:
            while not os.WIFSIGNALED(os.waitpid(pid, syscalls.WALL)[1]):
                pass
        except ChildProcessError:
            continue
