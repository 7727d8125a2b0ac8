"""System calls made inside another process, hundreds in one go, that heal themselves.

An *arena* is a small shared mapping in the task: one page of code, then a control block, a table of calls and their
data. The tracer has the same memory mapped, so writing a table costs no system call. A stopped thread is pointed at
the code, runs the table, and raises a signal at itself that it ignores by default: with a tracer this is a stop,
without one it is nothing. After the signal the code puts back mask, flags and registers from the control block and
jumps to where the thread was. So a tracer that is killed in the middle leaves a thread that finishes the table and
goes on by itself.

The first call (mmap of the arena) needs memory before there is any: its code and data lie in the unused tail of the
vdso page, behind the vdso's last byte, and are wiped afterwards.

Resources describe what they want as generators (`Remote`): they yield lists of `Call` and get lists of `Reply`; several
generators run in lock-step share each batch (`run_together`). Single-threaded by nature: ptrace belongs to one thread.
"""

import errno
import mmap
import os
import signal
import struct
from collections.abc import Callable, Collection, Generator, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple, TypeVar

from sls import proc, syscalls
from sls.errors import RemoteSyscallError, UnsupportedResourceError
from sls.headroom import room_for
from sls.proc import VmaLine
from sls.syscalls import PAGE_BYTES, Registers

ARENA_BYTES: Final = 64 * PAGE_BYTES
_MASK64: Final = (1 << 64) - 1

# --- calls ----------------------------------------------------------------------------------------------------------


class In(NamedTuple):
    """Bytes that the call reads; the argument is their address. `pointers`: (offset in data, what it points to)."""

    data: bytes
    pointers: "tuple[tuple[int, In | Out], ...]" = ()


class Out(NamedTuple):
    """Room for `size` bytes that the call writes, preset to `initial`; the argument is its address."""

    size: int
    initial: bytes = b""


class Call(NamedTuple):
    """One system call by name."""

    name: str
    arguments: tuple[int | In | Out, ...]


class Reply(NamedTuple):
    """What a call returned: the kernel's value (negative errno on failure) and the `Out` buffers in order."""

    pid: int
    name: str
    value: int
    outputs: tuple[bytes, ...]

    @property
    def failed(self) -> bool:
        return -4096 < self.value < 0

    def check(self) -> int:
        """The value; RemoteSyscallError when the call failed."""
        if self.failed:
            raise RemoteSyscallError(self.pid, self.name, -self.value)
        return self.value


def call(name: str, *arguments: int | In | Out) -> Call:
    """A call of `name` (as in syscalls(2))."""
    return Call(name, arguments)


T = TypeVar("T")
Remote = Generator[Sequence[Call], Sequence[Reply], T]


def remote_all(calls: Sequence[Call]) -> Remote[list[Reply]]:
    """Make `calls`, each of which must succeed."""
    replies = yield calls
    for reply in replies:
        reply.check()
    return list(replies)


def noted(remote: Remote[T]) -> Remote[tuple[T, list[Call]]]:
    """The same generator; its result comes with every call that it made."""
    made: list[Call] = []
    try:
        calls = next(remote)
        while True:
            made += calls
            calls = remote.send((yield calls))
    except StopIteration as stop:
        return stop.value, made


def run_together(
    remotes: Iterable[Remote[Any]], execute: Callable[[Sequence[Call]], Sequence[Reply]]
) -> list[Any]:
    """Run generators in lock-step, one batch a round for all of them; returns their results in order."""
    waiting = list(enumerate(remotes))
    results: list[Any] = [None] * len(waiting)
    answers: dict[int, Sequence[Reply] | None] = {index: None for index, _ in waiting}
    while waiting:
        wanted: list[tuple[int, Remote[Any], Sequence[Call]]] = []
        for index, remote in waiting:
            try:
                answer = answers[index]
                calls = next(remote) if answer is None else remote.send(answer)
                wanted.append((index, remote, calls))
            except StopIteration as stop:
                results[index] = stop.value
        batch = [one for _, _, calls in wanted for one in calls]
        replies = execute(batch) if batch else []
        position = 0
        for index, _, calls in wanted:
            answers[index] = replies[position : position + len(calls)]
            position += len(calls)
        waiting = [(index, remote) for index, remote, _ in wanted]
    return results


# --- the code that runs in the task ---------------------------------------------------------------------------------

# Control block: pid, tid, signal, mask, flags, rip, the general registers in this order, a mask of all signals.
_CONTROL = struct.Struct("=3Q 3Q 16Q Q")
_CONTROL_REGISTERS: Final = (
    "rax", "rbx", "rcx", "rdx", "rsi", "rdi", "rbp", "rsp",
    "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15",
)  # fmt: skip
_AT_PID, _AT_TID, _AT_SIGNAL, _AT_MASK, _AT_FLAGS, _AT_RIP, _AT_REGISTERS = 0, 8, 16, 24, 32, 40, 48
_AT_RSP: Final = _AT_REGISTERS + 8 * _CONTROL_REGISTERS.index("rsp")
_AT_ALL: Final = _AT_REGISTERS + 8 * len(_CONTROL_REGISTERS)
_AT_TABLE: Final = 0x100  # from the control block
_ENTRY = struct.Struct("=q6QQ")
_RESULT = struct.Struct("=56xq")
_STORE_RESULT: Final = b"\x49\x89\x47\x38"  # mov [r15+56], rax
_KEEP_RESULT: Final = (
    b"\x49\x89\xc4\x90"  # mov r12, rax; nop: for code that runs in read-only memory
)

_HEAL: Final = (b"\xbf\x02\x00\x00\x00", None)  # mov edi, 2 (SIG_SETMASK)

# (opcode, offset in the control block that a rip-relative operand names, or None)
_CODE: Final[tuple[tuple[bytes, int | None], ...]] = (
    (b"\x4c\x8d\x3d", _AT_TABLE),  # lea r15, [table]
    # next:
    (b"\x49\x8b\x07", None),  # mov rax, [r15]
    (b"\x48\x85\xc0", None),  # test rax, rax
    (b"\x78\x24", None),  # js done
    (b"\x49\x8b\x7f\x08", None),  # mov rdi, [r15+8]
    (b"\x49\x8b\x77\x10", None),  # mov rsi, [r15+16]
    (b"\x49\x8b\x57\x18", None),  # mov rdx, [r15+24]
    (b"\x4d\x8b\x57\x20", None),  # mov r10, [r15+32]
    (b"\x4d\x8b\x47\x28", None),  # mov r8, [r15+40]
    (b"\x4d\x8b\x4f\x30", None),  # mov r9, [r15+48]
    (b"\x0f\x05", None),  # syscall
    (_STORE_RESULT, None),
    (b"\x49\x83\xc7\x40", None),  # add r15, 64
    (b"\xeb\xd4", None),  # jmp next
    # done: tgkill(pid, tid, signal), the stop that the tracer waits for
    (b"\x8b\x3d", _AT_PID),  # mov edi, [pid]
    (b"\x8b\x35", _AT_TID),  # mov esi, [tid]
    (b"\x8b\x15", _AT_SIGNAL),  # mov edx, [signal]
    (b"\xb8\xea\x00\x00\x00", None),  # mov eax, 234
    (b"\x0f\x05", None),  # syscall
    # heal: reached only when there is no tracer any more; signals are blocked while rsp is off the stack, whatever the
    # tracer had come to
    _HEAL,
    (b"\xba\x00\x00\x00\x00", None),  # mov edx, 0
    (b"\x41\xba\x08\x00\x00\x00", None),  # mov r10d, 8
    (b"\x48\x8d\x35", _AT_ALL),  # lea rsi, [all]
    (b"\xb8\x0e\x00\x00\x00", None),  # mov eax, 14 (rt_sigprocmask)
    (b"\x0f\x05", None),  # syscall
    (b"\x48\x8d\x25", _AT_FLAGS),  # lea rsp, [flags]
    (b"\x9d", None),  # popfq
    (b"\x48\x8b\x25", _AT_RSP),  # mov rsp, [rsp_]
    (b"\x48\x8d\x35", _AT_MASK),  # lea rsi, [mask]
    (b"\xb8\x0e\x00\x00\x00", None),  # mov eax, 14
    (b"\x0f\x05", None),  # syscall
    (b"\x48\x8b\x05", _AT_REGISTERS + 0),  # mov rax, …
    (b"\x48\x8b\x1d", _AT_REGISTERS + 8),  # rbx
    (b"\x48\x8b\x0d", _AT_REGISTERS + 16),  # rcx
    (b"\x48\x8b\x15", _AT_REGISTERS + 24),  # rdx
    (b"\x48\x8b\x35", _AT_REGISTERS + 32),  # rsi
    (b"\x48\x8b\x3d", _AT_REGISTERS + 40),  # rdi
    (b"\x48\x8b\x2d", _AT_REGISTERS + 48),  # rbp
    (b"\x4c\x8b\x05", _AT_REGISTERS + 64),  # r8
    (b"\x4c\x8b\x0d", _AT_REGISTERS + 72),  # r9
    (b"\x4c\x8b\x15", _AT_REGISTERS + 80),  # r10
    (b"\x4c\x8b\x1d", _AT_REGISTERS + 88),  # r11
    (b"\x4c\x8b\x25", _AT_REGISTERS + 96),  # r12
    (b"\x4c\x8b\x2d", _AT_REGISTERS + 104),  # r13
    (b"\x4c\x8b\x35", _AT_REGISTERS + 112),  # r14
    (b"\x4c\x8b\x3d", _AT_REGISTERS + 120),  # r15
    (b"\xff\x25", _AT_RIP),  # jmp [rip_]
)


_HEAL_OFFSET: Final = sum(
    len(opcode) + 4 * (target is not None) for opcode, target in _CODE[: _CODE.index(_HEAL)]
)
_AFTER_CALL_OFFSET: Final = sum(
    len(opcode) + 4 * (target is not None)
    for opcode, target in _CODE[: _CODE.index((_STORE_RESULT, None))]
)


def assemble(control_offset: int, *, writable: bool) -> bytes:
    """The code, its control block `control_offset` bytes behind its first byte. Not `writable`: results stay in r12."""
    code = bytearray()
    for opcode, target in _CODE:
        keeps = opcode is _STORE_RESULT and not writable
        code += _KEEP_RESULT if keeps else opcode
        if target is not None:
            code += struct.pack("=i", control_offset + target - (len(code) + 4))
    assert len(code) <= control_offset
    return bytes(code)


# Several threads can run in an arena at once, each in a *lane*: code, control block and table of its own. The first
# lane has most of the room, the others a page each.
LANES: Final = 16
_LANE_CODE_BYTES: Final = 0x100


def _lane_data(lane: int) -> int:
    """Where the control block of a lane lies, from the arena's base."""
    return PAGE_BYTES if lane == 0 else ARENA_BYTES - (LANES - lane) * PAGE_BYTES


def _lane_end(lane: int) -> int:
    return _lane_data(lane + 1) if lane + 1 < LANES else ARENA_BYTES


_ARENA_CODE: Final = b"".join(
    assemble(_lane_data(lane) - lane * _LANE_CODE_BYTES, writable=True).ljust(
        _LANE_CODE_BYTES, b"\0"
    )
    for lane in range(LANES)
)
_VDSO_CONTROL: Final = 0x100
_VDSO_CODE: Final = assemble(_VDSO_CONTROL, writable=False)

# errno values a task sees when a signal interrupts a call that is to be restarted, include/linux/errno.h
ERESTARTSYS, ERESTARTNOINTR, ERESTARTNOHAND, ERESTART_RESTARTBLOCK = 512, 513, 514, 516
RESTART_SYSCALL: Final = 219


def is_restarting(registers: Registers) -> bool:
    """Whether the thread was taken out of a system call that the kernel will make again."""
    return registers.orig_rax < 1 << 63 and (registers.rax ^ _MASK64) + 1 in (
        ERESTARTSYS,
        ERESTARTNOINTR,
        ERESTARTNOHAND,
        ERESTART_RESTARTBLOCK,
    )


def restarted(registers: Registers, *, block_is_kept: bool) -> Registers:
    """Registers with which the thread makes its interrupted call again, as arch/x86/kernel/signal.c would set them.

    `block_is_kept`: the kernel still holds the thread's restart block, so ERESTART_RESTARTBLOCK goes on where it was;
    otherwise (a restored thread) the whole call is made again.
    """
    copy = syscalls.registers_from_bytes(bytes(registers))
    if is_restarting(registers):
        in_block = (registers.rax ^ _MASK64) + 1 == ERESTART_RESTARTBLOCK
        copy.rax = RESTART_SYSCALL if in_block and block_is_kept else registers.orig_rax
        copy.rip = registers.rip - 2
    copy.orig_rax = _MASK64
    return copy


def _control_block(pid: int, tid: int, stop_signal: int, mask: int, registers: Registers) -> bytes:
    after = restarted(registers, block_is_kept=True)
    general = (getattr(after, name) for name in _CONTROL_REGISTERS)
    return _CONTROL.pack(pid, tid, stop_signal, mask, after.eflags, after.rip, *general, _MASK64)


# --- a thread that works for its tracer -----------------------------------------------------------------------------

_QUIET_SIGNALS: Final = (signal.SIGURG, signal.SIGWINCH, signal.SIGCHLD)


def quiet_signal(status: Mapping[str, str]) -> int:
    """A signal that the process ignores by default, does not wait for, and has no handler for, where there is one."""
    handled = int(status["SigCgt"], 16)
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return int(
        min(
            _QUIET_SIGNALS,
            key=lambda number: (pending >> number - 1 & 1, handled >> number - 1 & 1),
        )
    )


class Borrowed:
    """A stopped thread whose registers and mask are ours until `give_back`.

    Killed at any moment, this process leaves a thread that is whole: with its own registers and mask, or somewhere in
    the code, which puts back both. So the registers change first and the mask after them, and back the other way.
    `numbers`: pid and tid as the thread itself knows them, who may be in another pid namespace.
    `births` collects tids that the thread's calls made (clone3); `stops` counts how often it has stopped since. Signals
    that arrive meanwhile stay queued in the kernel; the one kind that cannot be blocked and does not kill (SIGSTOP) is
    sent again by `give_back`.
    """

    def __init__(
        self,
        pid: int,
        tid: int,
        registers: Registers,
        mask: int,
        stop_signal: int,
        numbers: tuple[int, int] | None = None,
    ) -> None:
        self.pid = pid
        self.tid = tid
        self.numbers = numbers or (pid, tid)
        self.registers = registers
        self.mask = mask
        self.stop_signal = stop_signal
        self.births: list[int] = []
        self.stops = 0
        self._deferred: list[int] = []
        self._is_masked = False
        self._is_back = False

    def run_at(self, address: int, pause: Callable[[], None] | None = None) -> None:
        """Let the thread run from `address` until it raises the stop signal at itself.

        A call of the table that raises it (`stop_call`) stops the thread as well, for `pause`.
        """
        self.set_off(address)
        self.wait(address, pause)

    def set_off(self, address: int) -> None:
        """Let the thread run from `address`; `wait` has to follow."""
        registers = syscalls.registers_from_bytes(bytes(self.registers))
        registers.rip = address
        registers.orig_rax = _MASK64
        self._is_back = False
        syscalls.set_registers(self.tid, registers)
        if not self._is_masked:
            syscalls.set_sigmask(self.tid, _MASK64 & ~(1 << (self.stop_signal - 1)))
            self._is_masked = True
        syscalls.resume(self.tid)

    def stop_call(self) -> Call:
        """The call that stops the thread in the middle of a table; without a tracer it does nothing."""
        return call("tgkill", *self.numbers, self.stop_signal)

    def wait(self, start: int, pause: Callable[[], None] | None = None) -> None:
        """Wait for the signal raised at the end of the table; one of that number from elsewhere finds another place."""
        while True:
            stop = syscalls.wait_stop(self.tid)
            self.stops += 1
            if stop.event in syscalls.BIRTH_EVENTS:
                self.births.append(syscalls.event_message(self.tid))
            elif not stop.event:
                place = syscalls.get_registers(self.tid).rip - start
                if stop.signal == self.stop_signal and place == _HEAL_OFFSET:
                    return
                if stop.signal == self.stop_signal and place == _AFTER_CALL_OFFSET and pause:
                    pause()
                else:
                    self._deferred.append(stop.signal)
            syscalls.resume(self.tid)

    def give_back(self) -> None:
        """Put registers and mask back as they were at the stop. It may be run again."""
        if self._is_back:
            return
        if self._is_masked:
            syscalls.set_sigmask(self.tid, self.mask)
            self._is_masked = False
        syscalls.set_registers(self.tid, self.registers)
        self._is_back = True
        for number in self._deferred:
            syscalls.syscall("tgkill", self.pid, self.tid, number)
        self._deferred.clear()


class Arena:
    """Shared memory of the tracer and one process (and those it forks): code, control block, table, data; by lanes.

    A lane's control block is that of the thread that ran last in it: give one back before another one runs there.
    """

    def __init__(self, base: int, memory: mmap.mmap) -> None:
        self.base = base
        self.end = base + ARENA_BYTES
        self._memory = memory
        memory[: len(_ARENA_CODE)] = _ARENA_CODE

    @classmethod
    def create(
        cls, thread: Borrowed, maps: Sequence[VmaLine], base: int, *, is_inherited: bool = False
    ) -> "Arena":
        """Map an arena at `base` (a hole) in the process of `thread`; `is_inherited` by those it forks."""
        calls = (
            call(
                "mmap", base, ARENA_BYTES, mmap.PROT_READ | mmap.PROT_WRITE, _MAP_ARENA, _MASK64, 0
            ),
            call(
                "madvise",
                base,
                ARENA_BYTES,
                mmap.MADV_DOFORK if is_inherited else mmap.MADV_DONTFORK,
            ),
            call("mprotect", base, PAGE_BYTES, mmap.PROT_READ | mmap.PROT_EXEC),
        )
        try:
            with room_for(thread.pid, ARENA_BYTES):
                run_in_vdso(thread, maps, calls)
        except RemoteSyscallError as error:
            with suppress(RemoteSyscallError):  # some of it may be there
                run_in_vdso(thread, maps, (call("munmap", base, ARENA_BYTES),))
            if error.errno != errno.ENOMEM:
                raise
            raise UnsupportedResourceError(
                thread.pid,
                "address space",
                f"no room for {ARENA_BYTES >> 10} KiB of ours; raise its RLIMIT_AS (prlimit(1)), or vm.max_map_count",
            ) from error
        path = f"/proc/{thread.tid}/map_files"
        # two mappings since mprotect: both are of one shmem object, and the second starts one page into it
        fd = os.open(f"{path}/{base:x}-{base + PAGE_BYTES:x}", os.O_RDWR | os.O_CLOEXEC)
        try:
            return cls(base, mmap.mmap(fd, ARENA_BYTES, mmap.MAP_SHARED))
        finally:
            os.close(fd)

    def remove(self, thread: Borrowed, maps: Sequence[VmaLine]) -> None:
        """Unmap the arena from the process of `thread`; it must not be used after."""
        run_in_vdso(thread, maps, (call("munmap", self.base, ARENA_BYTES),))
        self.close()

    def close(self) -> None:
        """Drop the tracer's side."""
        self._memory.close()

    def run(
        self, thread: Borrowed, calls: Sequence[Call], pause: Callable[[], None] | None = None
    ) -> list[Reply]:
        """Make `calls` in `thread`, in order, in as few batches as they fit in.

        A failed call does not end the batch; its reply tells. `pause`: run at each `thread.stop_call()` among them.
        """
        started = self.start(thread, calls, pause)
        started.wait()
        return started.replies()

    def start(
        self,
        thread: Borrowed,
        calls: Sequence[Call],
        pause: Callable[[], None] | None = None,
        *,
        lane: int = 0,
    ) -> "Started":
        """`run` that goes on meanwhile: wait for it before anything else is done with the thread or the lane."""
        return Started(_Lane(self.base, self._memory, lane), thread, calls, pause)


class _Lane:
    """Where one thread at a time runs."""

    def __init__(self, base: int, memory: mmap.mmap, lane: int) -> None:
        self.code = base + lane * _LANE_CODE_BYTES
        self._base = base
        self._memory = memory
        self._control = _lane_data(lane)
        self._table = self._control + _AT_TABLE
        self._end = _lane_end(lane)

    def set_off(self, thread: Borrowed, calls: tuple[Call, ...]) -> "_Layout":
        """Let `thread` make as many of `calls` as there is room for."""
        layout = _laid_out(self._base + self._table, self._base + self._end, calls)
        control = _control_block(*thread.numbers, thread.stop_signal, thread.mask, thread.registers)
        self._memory[self._control : self._control + len(control)] = control
        for address, data in layout.pieces:
            offset = address - self._base
            self._memory[offset : offset + len(data)] = data
        thread.set_off(self.code)
        return layout

    def results(self, layout: "_Layout") -> bytes:
        """Table and data, after the run."""
        return self._memory[self._table : layout.end - self._base]

    def replies(
        self, pid: int, calls: Sequence[Call], layout: "_Layout", memory: bytes
    ) -> list[Reply]:
        """What `results` say."""
        origin = self._base + self._table
        values = _RESULT.iter_unpack(memory[: layout.count * _ENTRY.size])
        return [
            Reply(
                pid,
                one.name,
                value,
                tuple([memory[at - origin : at - origin + size] for at, size in outputs]),
            )
            for one, outputs, (value,) in zip(calls, layout.outputs, values, strict=False)
        ]


class Started:
    """Calls that a thread is making, in one batch after another."""

    def __init__(
        self,
        lane: _Lane,
        thread: Borrowed,
        calls: Sequence[Call],
        pause: Callable[[], None] | None,
    ) -> None:
        self._lane = lane
        self._thread = thread
        self._pause = pause
        self._rest = tuple(calls)
        self._finished: list[tuple[tuple[Call, ...], _Layout, bytes]] = []
        self._running = lane.set_off(thread, self._rest) if self._rest else None

    def wait(self) -> None:
        """Until all are made; the thread stands still then. Raises TaskDiedError."""
        while self._running is not None:
            layout, self._running = self._running, None
            self._thread.wait(self._lane.code, self._pause)
            made, self._rest = self._rest[: layout.count], self._rest[layout.count :]
            self._finished.append((made, layout, self._lane.results(layout)))
            if self._rest:
                self._running = self._lane.set_off(self._thread, self._rest)

    def replies(self) -> list[Reply]:
        """A reply for each call, in order, once all are made. Made out when asked for."""
        pid = self._thread.pid
        return [reply for batch in self._finished for reply in self._lane.replies(pid, *batch)]


def remove_abandoned(thread: Borrowed, maps: Sequence[VmaLine], places: Collection[int]) -> bool:
    """Unmap the arenas that killed tracers have left in the process of `thread`; whether there were any.

    `places`: where its threads stand. An arena in which one has yet to heal stays.
    """
    found = [
        code.start
        for code, rest in pairwise(maps)
        if _looks_like_arena(code, rest)
        and not any(code.start <= place < rest.end for place in places)
        and syscalls.read_memory(thread.tid, code.start, len(_ARENA_CODE))
        in (_ARENA_CODE, bytes(len(_ARENA_CODE)))  # zeros: killed before the code was written
    ]
    for base in found:
        run_in_vdso(thread, maps, (call("munmap", base, ARENA_BYTES),))
    return bool(found)


def _looks_like_arena(code: VmaLine, rest: VmaLine) -> bool:
    """Whether two neighbours are the two mappings that `Arena.create` makes of one shared object."""
    return (
        (code.permissions, code.length, code.offset) == ("r-xs", PAGE_BYTES, 0)
        and (rest.permissions, rest.start, rest.offset) == ("rw-s", code.end, PAGE_BYTES)
        and rest.end - code.start == ARENA_BYTES
        and rest.inode == code.inode
        and code.name.startswith(b"/dev/zero")
    )


_MAP_ARENA: Final = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | 0x100000  # MAP_FIXED_NOREPLACE


class _Layout:
    """Where a batch's table and data go: the first `count` of `calls`, as many as fit below `limit`."""

    def __init__(self, table: int, limit: int, calls: Sequence[Call]) -> None:
        self.pieces: list[tuple[int, bytes]] = []
        self.outputs: list[list[tuple[int, int]]] = []
        self.count = self._fitting(calls, limit - table)
        self.end = table + (self.count + 1) * _ENTRY.size
        entries = bytearray()
        for one in calls[: self.count]:
            self.outputs.append([])
            arguments = [self._place(argument) & _MASK64 for argument in one.arguments]
            arguments += [0] * (6 - len(arguments))
            entries += _ENTRY.pack(syscalls.SYSCALL_NUMBERS[one.name], *arguments, 0)
        entries += _ENTRY.pack(-1, 0, 0, 0, 0, 0, 0, 0)
        self.pieces.append((table, bytes(entries)))

    @staticmethod
    def _fitting(calls: Sequence[Call], room: int) -> int:
        room -= _ENTRY.size
        for count, one in enumerate(calls):
            room -= _ENTRY.size + sum(map(_data_bytes, one.arguments))
            if room < 0:
                assert count, f"the data of one {one.name} does not fit into the arena"
                return count
        return len(calls)

    def _place(self, argument: int | In | Out) -> int:
        if isinstance(argument, int):
            return argument
        address = self.end
        if isinstance(argument, Out):
            self.end += _rounded(argument.size)
            self.outputs[-1].append((address, argument.size))
            if argument.initial:
                self.pieces.append((address, argument.initial))
            return address
        self.end += _rounded(len(argument.data))
        data = bytearray(argument.data)
        for offset, target in argument.pointers:
            data[offset : offset + 8] = struct.pack("=Q", self._place(target))
        self.pieces.append((address, bytes(data)))
        return address


_latest: dict[int, tuple[tuple[Call, ...], _Layout]] = {}  # by the table's address
_MOST_LATEST: Final = 256


def _laid_out(table: int, limit: int, calls: tuple[Call, ...]) -> _Layout:
    """The layout; the same calls are made at every capture, in every thread. To compare is faster than to hash."""
    latest = _latest.get(table)
    if latest is None or (latest[0] is not calls and latest[0] != calls):
        if len(_latest) >= _MOST_LATEST:
            _latest.clear()
        latest = _latest[table] = calls, _laid_out_before(table, limit, calls)
    return latest[1]


@lru_cache(maxsize=64)
def _laid_out_before(table: int, limit: int, calls: tuple[Call, ...]) -> _Layout:
    return _Layout(table, limit, calls)


def _rounded(size: int) -> int:
    return (size + 15) & ~15


def _data_bytes(argument: int | In | Out) -> int:
    if isinstance(argument, int):
        return 0
    if isinstance(argument, Out):
        return _rounded(argument.size)
    return _rounded(len(argument.data)) + sum(
        _data_bytes(target) for _, target in argument.pointers
    )


# --- calls before there is an arena ---------------------------------------------------------------------------------


def _own_vdso_bytes() -> int:
    """Length of the vdso without its unused tail, the same in every process of this kernel."""
    vma = next(
        vma for vma in proc.parse_maps(proc.read(os.getpid(), "maps")) if vma.name == b"[vdso]"
    )
    with open("/proc/self/mem", "rb", buffering=0) as memory:
        image = os.pread(memory.fileno(), vma.length, vma.start)
    return len(image.rstrip(b"\0"))


_vdso_used_bytes: int | None = None


def _vdso_tail(thread: Borrowed, maps: Sequence[VmaLine], need: int) -> int:
    global _vdso_used_bytes
    if _vdso_used_bytes is None:
        _vdso_used_bytes = _own_vdso_bytes()
    vdso = next((vma for vma in maps if vma.name == b"[vdso]"), None)
    if vdso is None:
        raise UnsupportedResourceError(
            thread.pid, "memory", "it has unmapped its vdso; run it without"
        )
    start = vdso.start + ((_vdso_used_bytes + 64 + 15) & ~15)
    if start + need > vdso.end:
        raise UnsupportedResourceError(
            thread.pid, "memory", "this kernel's vdso page has no free tail"
        )
    return start


def run_in_vdso(thread: Borrowed, maps: Sequence[VmaLine], calls: Sequence[Call]) -> int:
    """Make `calls` (integer arguments only) from the tail of the vdso; all must succeed. Returns the last one's value.

    The thread is given back before the code is wiped.
    Writing through /proc/<pid>/mem gives the task its own copy of that page, as a debugger's breakpoint does.
    """
    table = b"".join(
        _ENTRY.pack(
            syscalls.SYSCALL_NUMBERS[one.name],
            *(int(a) & _MASK64 for a in (*one.arguments, *(0,) * (6 - len(one.arguments)))),  # type: ignore[arg-type]
            0,
        )
        for one in calls
    )
    control = _control_block(*thread.numbers, thread.stop_signal, thread.mask, thread.registers)
    blob = bytearray(_VDSO_CODE.ljust(_VDSO_CONTROL, b"\0") + control)
    blob = blob.ljust(_VDSO_CONTROL + _AT_TABLE, b"\0") + table + struct.pack("=q", -1)
    start = _vdso_tail(thread, maps, len(blob))
    memory = proc.open_memory(thread.tid)
    try:
        os.pwrite(memory, blob, start)
        thread.run_at(start)
        value = _signed(syscalls.get_registers(thread.tid).r12)
        thread.give_back()
        os.pwrite(memory, bytes(len(blob)), start)
    finally:
        os.close(memory)
    return Reply(thread.pid, calls[-1].name, value, ()).check()


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def find_hole(layouts: Sequence[Sequence[VmaLine]], length: int) -> int:
    """An address where none of `layouts` has a mapping within 1 MiB of [address, address + length)."""
    margin = 1 << 20
    taken = sorted(
        (vma.start, vma.end) for layout in layouts for vma in layout if vma.end < 1 << 47
    )
    end = 0x10_0000_0000  # far from where programs, heaps and stacks are placed
    for start, stop in taken:
        if stop + margin <= end:
            continue
        if start >= end + length + margin:
            break
        end = (stop + margin + PAGE_BYTES - 1) & -PAGE_BYTES
    assert end + length < (1 << 47) - margin, "no hole in the address space"
    return end
