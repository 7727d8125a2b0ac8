"""The kernel's calls that Python lacks: ptrace, process_vm_*, kcmp, userfaultfd, PAGEMAP_SCAN, clone3 structures.

The one module with ctypes. It knows no policy: each function is one call, checked. ESRCH becomes TaskDiedError here and
nowhere else; every other failure is an OSError. python-ptrace carries ptrace(2)'s numbers, register layout and
syscall numbers; what it lacks (SEIZE, INTERRUPT, GETREGSET, masks, queues, rseq) is added here.

Sources: ptrace(2), process_vm_readv(2), kcmp(2), userfaultfd(2), Documentation/admin-guide/mm/pagemap.rst,
include/uapi/linux/ptrace.h.
"""

import ctypes
import errno
import fcntl
import mmap
import os
import signal
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from itertools import filterfalse
from typing import Final, NamedTuple, TypeAlias

import numpy as np
from ptrace.binding.func import (
    PTRACE_CONT,
    PTRACE_DETACH,
    PTRACE_EVENT_CLONE,
    PTRACE_EVENT_EXEC,
    PTRACE_EVENT_FORK,
    PTRACE_EVENT_VFORK,
    PTRACE_GETEVENTMSG,
    PTRACE_GETREGS,
    PTRACE_GETREGSET,
    PTRACE_GETSIGINFO,
    PTRACE_O_TRACECLONE,
    PTRACE_O_TRACEEXEC,
    PTRACE_O_TRACEFORK,
    PTRACE_O_TRACEVFORK,
    PTRACE_SETOPTIONS,
    PTRACE_SETREGS,
    PTRACE_SETREGSET,
    PTRACE_SYSCALL,
)
from ptrace.binding.linux_struct import user_regs_struct
from ptrace.syscall.names import SYSCALL_NAMES

from sls.errors import TaskDiedError
from sls.ranges import NOTHING, RangeArray

PAGE_BYTES: Final = 4096

PTRACE_SEIZE: Final = 0x4206
PTRACE_INTERRUPT: Final = 0x4207
PTRACE_PEEKSIGINFO: Final = 0x4209
PTRACE_GETSIGMASK: Final = 0x420A
PTRACE_SETSIGMASK: Final = 0x420B
PTRACE_SECCOMP_GET_FILTER: Final = 0x420C
PTRACE_SECCOMP_GET_METADATA: Final = 0x420D
PTRACE_GET_RSEQ_CONFIGURATION: Final = 0x420F
PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG: Final = 0x4211
PTRACE_PEEKSIGINFO_SHARED: Final = 1
PTRACE_EVENT_STOP: Final = 128
PTRACE_O_EXITKILL: Final = 1 << 20
PTRACE_O_SUSPEND_SECCOMP: Final = 1 << 21
NT_X86_XSTATE: Final = 0x202
TRACE_OPTIONS: Final = (
    PTRACE_O_TRACECLONE | PTRACE_O_TRACEFORK | PTRACE_O_TRACEVFORK | PTRACE_O_TRACEEXEC
)
BIRTH_EVENTS: Final = (PTRACE_EVENT_CLONE, PTRACE_EVENT_FORK, PTRACE_EVENT_VFORK)
EXEC_EVENT: Final = PTRACE_EVENT_EXEC
VFORK_EVENT: Final = PTRACE_EVENT_VFORK

SIGINFO_BYTES: Final = 128
SIGMASK_BYTES: Final = 8
SCHED_ATTR_LIMIT_BYTES: Final = 256
XSTATE_LIMIT_BYTES: Final = 16384
WALL: Final = 0x40000000  # __WALL of wait(2)

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.syscall.restype = ctypes.c_long
_ptrace = _LIBC.ptrace
_ptrace.restype = ctypes.c_long
_ptrace.argtypes = [ctypes.c_ulong] * 4
for _name in ("process_vm_readv", "process_vm_writev"):
    getattr(_LIBC, _name).restype = ctypes.c_ssize_t

# Numbers 512 to 547 are the x32 ABI's; the names repeat.
SYSCALL_NUMBERS: Final[dict[str, int]] = {
    name: number for number, name in SYSCALL_NAMES.items() if number < 512
} | {
    "userfaultfd": 323,
    "timerfd_create": 283,
    "kcmp": 312,
    "prlimit64": 302,
    "set_mempolicy_home_node": 450,
    "epoll_pwait2": 441,
    "mseal": 462,
    "mount_setattr": 442,
}


class Registers(user_regs_struct):  # type: ignore[misc]  # python-ptrace is untyped
    """The kernel's user_regs_struct: one attribute a register."""


REGISTERS_BYTES: Final = ctypes.sizeof(user_regs_struct)
REGISTER_NAMES: Final = tuple(str(field[0]) for field in user_regs_struct._fields_)


def registers_to_bytes(registers: Registers) -> bytes:
    """The user_regs_struct as the kernel lays it out (27 words of 8 bytes)."""
    return bytes(registers)


def registers_from_bytes(data: bytes) -> Registers:
    """Inverse of `registers_to_bytes`; ValueError when `data` is short."""
    found: Registers = Registers.from_buffer_copy(data)
    return found


# --- ptrace ---------------------------------------------------------------------------------------------------------


def _trace(request: int, tid: int, address: int = 0, data: int = 0) -> int:
    # not by python-ptrace's function: of the 3 µs that it takes the kernel has 1, and a stop makes 16 a thread
    result: int = _ptrace(request, tid, address, data)
    if result == -1:
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise TaskDiedError(tid, "tracing")
        raise OSError(code, os.strerror(code), f"ptrace({request:#x}, {tid})")
    return result


def seize(tid: int, options: int = TRACE_OPTIONS) -> None:
    """PTRACE_SEIZE: become the tracer without stopping the task."""
    _trace(PTRACE_SEIZE, tid, 0, options)


def interrupt(tid: int) -> None:
    """PTRACE_INTERRUPT: ask for a PTRACE_EVENT_STOP."""
    _trace(PTRACE_INTERRUPT, tid)


def resume(tid: int, signal: int = 0) -> None:
    """PTRACE_CONT, delivering `signal` if not 0."""
    _trace(PTRACE_CONT, tid, 0, signal)


def detach(tid: int, signal: int = 0) -> None:
    """PTRACE_DETACH, delivering `signal` if not 0."""
    _trace(PTRACE_DETACH, tid, 0, signal)


def event_message(tid: int) -> int:
    """PTRACE_GETEVENTMSG: for a birth event the new tid."""
    value = ctypes.c_ulong()
    _trace(PTRACE_GETEVENTMSG, tid, 0, ctypes.addressof(value))
    return value.value


def get_registers(tid: int) -> Registers:
    """PTRACE_GETREGS."""
    registers = Registers()
    _trace(PTRACE_GETREGS, tid, 0, ctypes.addressof(registers))
    return registers


def set_registers(tid: int, registers: Registers) -> None:
    """PTRACE_SETREGS."""
    _trace(PTRACE_SETREGS, tid, 0, ctypes.addressof(registers))


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


_XSTATE_BUFFER = ctypes.create_string_buffer(XSTATE_LIMIT_BYTES)


def get_xstate(tid: int) -> bytes:
    """PTRACE_GETREGSET NT_X86_XSTATE: the whole XSAVE area in its standard (uncompacted) form."""
    vector = _IoVec(ctypes.addressof(_XSTATE_BUFFER), XSTATE_LIMIT_BYTES)
    _trace(PTRACE_GETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))
    return ctypes.string_at(_XSTATE_BUFFER, vector.length)


def set_xstate(tid: int, state: bytes) -> None:
    """PTRACE_SETREGSET NT_X86_XSTATE."""
    buffer = ctypes.create_string_buffer(state, len(state))
    vector = _IoVec(ctypes.addressof(buffer), len(state))
    _trace(PTRACE_SETREGSET, tid, NT_X86_XSTATE, ctypes.addressof(vector))


def get_sigmask(tid: int) -> int:
    """PTRACE_GETSIGMASK: bit n-1 set means signal n is blocked."""
    mask = ctypes.c_uint64()
    _trace(PTRACE_GETSIGMASK, tid, SIGMASK_BYTES, ctypes.addressof(mask))
    return mask.value


def set_sigmask(tid: int, mask: int) -> None:
    """PTRACE_SETSIGMASK."""
    value = ctypes.c_uint64(mask)
    _trace(PTRACE_SETSIGMASK, tid, SIGMASK_BYTES, ctypes.addressof(value))


def get_siginfo(tid: int) -> bytes:
    """PTRACE_GETSIGINFO: the siginfo_t of the stop, 128 bytes. OSError EINVAL in a group-stop."""
    buffer = ctypes.create_string_buffer(SIGINFO_BYTES)
    _trace(PTRACE_GETSIGINFO, tid, 0, ctypes.addressof(buffer))
    return buffer.raw


def peek_siginfo(tid: int, *, shared: bool, most: int, batch: int = 32) -> list[bytes]:
    """PTRACE_PEEKSIGINFO: every queued siginfo_t of the thread (or, `shared`, of its process), in queue order.

    No more than `most` and a few: the kernel goes through the queue from its start for each one.
    """
    found: list[bytes] = []
    buffer = ctypes.create_string_buffer(SIGINFO_BYTES * batch)
    while True:
        flags = PTRACE_PEEKSIGINFO_SHARED if shared else 0
        args = ctypes.create_string_buffer(struct.pack("=QIi", len(found), flags, batch))
        count = _trace(PTRACE_PEEKSIGINFO, tid, ctypes.addressof(args), ctypes.addressof(buffer))
        found += [
            buffer.raw[i : i + SIGINFO_BYTES]
            for i in range(0, count * SIGINFO_BYTES, SIGINFO_BYTES)
        ]
        if count < batch or len(found) > most:
            return found


def suspend_seccomp(tid: int) -> None:
    """PTRACE_O_SUSPEND_SECCOMP while traced. OSError without CAP_SYS_ADMIN, or within a filter of our own."""
    _trace(PTRACE_SETOPTIONS, tid, 0, TRACE_OPTIONS | PTRACE_O_SUSPEND_SECCOMP)


def seccomp_program(tid: int, index: int) -> bytes:
    """PTRACE_SECCOMP_GET_FILTER: instructions of the filter; 0 is the oldest. OSError for an eBPF one."""
    count = _trace(PTRACE_SECCOMP_GET_FILTER, tid, index, 0)
    buffer = ctypes.create_string_buffer(8 * count)
    _trace(PTRACE_SECCOMP_GET_FILTER, tid, index, ctypes.addressof(buffer))
    return buffer.raw


def seccomp_flags(tid: int, index: int) -> int:
    """PTRACE_SECCOMP_GET_METADATA: flags of the filter."""
    buffer = ctypes.create_string_buffer(struct.pack("=QQ", index, 0), 16)
    _trace(PTRACE_SECCOMP_GET_METADATA, tid, 16, ctypes.addressof(buffer))
    return int(struct.unpack("=QQ", buffer.raw)[1])


class RseqConfiguration(NamedTuple):
    """Registration of restartable sequences, rseq(2); address 0 means none."""

    address: int
    size_bytes: int
    signature: int
    flags: int


NO_RSEQ: Final = RseqConfiguration(0, 0, 0, 0)


_RSEQ = struct.Struct("=QIIII")
_RSEQ_BUFFER = ctypes.create_string_buffer(_RSEQ.size)  # of the one thread that traces


def rseq_configuration(tid: int) -> RseqConfiguration:
    """PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13)."""
    where = ctypes.addressof(_RSEQ_BUFFER)
    _trace(PTRACE_GET_RSEQ_CONFIGURATION, tid, _RSEQ.size, where)
    return RseqConfiguration(*_RSEQ.unpack_from(_RSEQ_BUFFER)[:4])


_DISPATCH_BUFFER = ctypes.create_string_buffer(32)


def dispatches_calls(tid: int) -> bool:
    """Whether calls of the thread may be handed to itself as SIGSYS (PR_SET_SYSCALL_USER_DISPATCH; Linux 6.4)."""
    where = ctypes.addressof(_DISPATCH_BUFFER)
    try:
        _trace(PTRACE_GET_SYSCALL_USER_DISPATCH_CONFIG, tid, len(_DISPATCH_BUFFER), where)
    except OSError:
        return False
    return any(_DISPATCH_BUFFER.raw[:8])


# --- waiting --------------------------------------------------------------------------------------------------------


class Stop(NamedTuple):
    """One ptrace stop: `signal` in hand, and the PTRACE_EVENT number or 0."""

    signal: int
    event: int


STOP_TIMEOUT_S: Final = 2.0
_LOOK_AGAIN_S: Final = 0.05


def become_tracer() -> None:
    """Block SIGCHLD, so that `wait_stop` can wait for it with a limit. Once in each tracing thread's process."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})


def wait_stop(tid: int, timeout_s: float = STOP_TIMEOUT_S) -> Stop:
    """Wait for the next ptrace stop of `tid`.

    Raises TaskDiedError when it ends instead, TimeoutError when it does not stop: it sleeps uninterruptibly
    (vfork(2), a dead network filesystem). A time in which nobody ran at all, as of a virtual machine that was
    paused, counts as one moment; so does a SIGCHLD that another thread of ours has taken.
    """
    left, last = timeout_s, 0.0
    while True:
        try:
            found, status = os.waitpid(tid, WALL | os.WNOHANG)
        except ChildProcessError as error:
            raise TaskDiedError(tid, "tracing") from error
        if found:
            if not os.WIFSTOPPED(status):
                raise TaskDiedError(tid, "tracing")
            return Stop(os.WSTOPSIG(status), status >> 16)
        now = time.monotonic()
        left -= min(now - last, _LOOK_AGAIN_S) if last else 0.0
        if left < 0:
            raise TimeoutError(f"tid {tid} does not stop: it sleeps uninterruptibly")
        last = now
        signal.sigtimedwait({signal.SIGCHLD}, min(left, _LOOK_AGAIN_S) + 0.001)


def step_over_call(tid: int) -> None:
    """Run the `syscall` instruction that comes next; `tid` stops behind it.

    PTRACE_SINGLESTEP would end in a forced SIGTRAP, which resets an action that is ignored or a signal that is blocked
    (force_sig_info_to_task() in kernel/signal.c).
    """
    for _ in ("entry", "exit"):
        _trace(PTRACE_SYSCALL, tid)
        wait_stop(tid)


def next_trapped() -> tuple[int, int] | None:
    """A tracee of this thread that stands in a stop nobody has waited for, and the signal it is about to get, or 0."""
    while found := os.waitid(os.P_ALL, 0, os.WSTOPPED | os.WNOHANG | WALL):
        if found.si_code == os.CLD_TRAPPED:
            return found.si_pid, 0 if found.si_status >> 8 else found.si_status
    return None


# --- memory of another process --------------------------------------------------------------------------------------

_IOV_MAX = 1024


def _vectors(ranges: Sequence[tuple[int, int]]) -> ctypes.Array[_IoVec]:
    return (_IoVec * len(ranges))(*(_IoVec(*one) for one in ranges))


def _transfer(
    function: object, pid: int, local: ctypes.Array[ctypes.c_char], offset: int,
    ranges: Sequence[tuple[int, int]],
) -> int:  # fmt: skip
    """Move `ranges` (address, length) of `pid` to or from `local` at `offset`; returns bytes moved."""
    moved = 0
    base = ctypes.addressof(local) + offset
    for start in range(0, len(ranges), _IOV_MAX):
        part = ranges[start : start + _IOV_MAX]
        wanted = sum(length for _, length in part)
        assert offset + moved + wanted <= len(local)
        mine = _IoVec(base + moved, wanted)
        done: int = function(  # type: ignore[operator]
            pid, ctypes.byref(mine), 1, _vectors(part), len(part), 0
        )
        if done < 0:
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                raise TaskDiedError(pid, "copying memory")
            raise OSError(code, os.strerror(code), f"memory of pid {pid} at {part[0][0]:#x}")
        moved += done
        if done < wanted:
            return moved
    return moved


def read_memory_into(
    pid: int,
    ranges: Sequence[tuple[int, int]],
    buffer: ctypes.Array[ctypes.c_char],
    offset: int = 0,
) -> int:
    """process_vm_readv of `ranges` (address, bytes) into `buffer` at `offset`, packed; returns bytes read.

    Short when a range is not readable. Raises TaskDiedError, OSError (EFAULT when nothing could be read).
    """
    return _transfer(_LIBC.process_vm_readv, pid, buffer, offset, ranges)


def read_ranges_into(pid: int, ranges: RangeArray, buffer: "SharedArray", offset: int) -> int:
    """`read_memory_into` for pairs [start, end) in an array, which becomes the kernel's vector without a loop."""
    vectors = ranges.copy()
    vectors[:, 1] -= vectors[:, 0]
    lengths = vectors[:, 1].cumsum()
    base, first = ctypes.addressof(buffer) + offset, vectors.ctypes.data
    moved = 0
    for start in range(0, len(vectors), _IOV_MAX):
        end = min(len(vectors), start + _IOV_MAX)
        wanted = int(lengths[end - 1]) - moved
        assert offset + moved + wanted <= len(buffer)
        mine = _IoVec(base + moved, wanted)
        where = first + start * ctypes.sizeof(_IoVec)
        done: int = _LIBC.process_vm_readv(
            pid, ctypes.byref(mine), 1, ctypes.c_void_p(where), end - start, 0
        )
        if done < 0:
            code = ctypes.get_errno()
            if code == errno.ESRCH:
                raise TaskDiedError(pid, "copying memory")
            raise OSError(code, os.strerror(code), f"memory of pid {pid}")
        moved += done
        if done < wanted:
            break
    return moved


def write_memory_from(
    pid: int,
    ranges: Sequence[tuple[int, int]],
    buffer: ctypes.Array[ctypes.c_char],
    offset: int = 0,
) -> int:
    """process_vm_writev: the inverse of `read_memory_into`."""
    return _transfer(_LIBC.process_vm_writev, pid, buffer, offset, ranges)


def read_memory(pid: int, address: int, length: int) -> bytes:
    """`length` bytes of `pid` at `address`; OSError EFAULT unless all of them are readable."""
    buffer = ctypes.create_string_buffer(length)
    mine, theirs = _IoVec(ctypes.addressof(buffer), length), _IoVec(address, length)
    done = _LIBC.process_vm_readv(pid, ctypes.byref(mine), 1, ctypes.byref(theirs), 1, 0)
    if done == length:
        return buffer.raw
    code = ctypes.get_errno() if done < 0 else errno.EFAULT
    if code == errno.ESRCH:
        raise TaskDiedError(pid, "reading memory")
    raise OSError(code, os.strerror(code), f"pid {pid} at {address:#x}")


def write_memory(pid: int, address: int, data: bytes) -> None:
    """Write `data` to `pid` at `address`; OSError EFAULT unless the process itself could write all of it."""
    buffer = ctypes.create_string_buffer(data, len(data))
    if write_memory_from(pid, [(address, len(data))], buffer) != len(data):
        raise OSError(errno.EFAULT, os.strerror(errno.EFAULT), f"pid {pid} at {address:#x}")


SharedArray: TypeAlias = ctypes.Array[ctypes.c_char]


def shared_array(view: memoryview) -> SharedArray:
    """A ctypes array over writable memory (an mmap), for the memory functions above; copies nothing."""
    return (ctypes.c_char * len(view)).from_buffer(view)


def address_of(memory: mmap.mmap) -> int:
    """Where a mapping of this process lies."""
    anchor = ctypes.c_char.from_buffer(memory)
    return ctypes.addressof(anchor)


# --- many calls in one go --------------------------------------------------------------------------------------------

# r15: struct { long number, arguments[6], result; } *. Makes calls until a negative number. x86-64, System V ABI.
CALL_LOOP: Final = bytes.fromhex(
    # next:
    "49 8b 07"  # mov rax, [r15]
    "48 85 c0"  # test rax, rax
    "78 24"  # js done
    "49 8b 7f 08"  # mov rdi, [r15+8]
    "49 8b 77 10"  # mov rsi, [r15+16]
    "49 8b 57 18"  # mov rdx, [r15+24]
    "4d 8b 57 20"  # mov r10, [r15+32]
    "4d 8b 47 28"  # mov r8, [r15+40]
    "4d 8b 4f 30"  # mov r9, [r15+48]
    "0f 05"  # syscall
    "49 89 47 38"  # mov [r15+56], rax
    "49 83 c7 40"  # add r15, 64
    "eb d4"  # jmp next
    # done:
)
# void make_calls(table *)
_MAKE_CALLS: Final = (
    bytes.fromhex(
        "41 57"  # push r15
        "49 89 ff"  # mov r15, rdi
    )
    + CALL_LOOP
    + bytes.fromhex("41 5f c3")  # pop r15; ret
)


@cache
def machine_code(code: bytes) -> Callable[[int], None]:
    """A function of one pointer that is machine code; the interpreter is let go while it runs."""
    return ctypes.CFUNCTYPE(None, ctypes.c_void_p)(address_of(_executable(code)))


@cache
def _executable(code: bytes) -> mmap.mmap:
    """The code, in memory that is executable and not writable."""
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, PAGE_BYTES, flags, mmap.PROT_READ | mmap.PROT_WRITE)
    memory.write(code)
    syscall("mprotect", address_of(memory), PAGE_BYTES, mmap.PROT_READ | mmap.PROT_EXEC)
    return memory


class CallTable:
    """System calls of this process, made again and again in one go: a call then costs what the kernel takes for it.

    `arguments`: a row of six a call. `results`: what the kernel returned, a negative errno for a failure. Memory that
    they point to is the caller's to keep.
    """

    def __init__(self, calls: Sequence[tuple[str, Sequence[int]]]) -> None:
        self._table = np.zeros((len(calls) + 1, 8), dtype=np.int64)
        for row, (name, arguments) in enumerate(calls):
            self._table[row, 0] = SYSCALL_NUMBERS[name]
            self._table[row, 1 : 1 + len(arguments)] = arguments
        self._table[-1, 0] = -1
        self.arguments = self._table[:-1, 1:7]
        self.results = self._table[:-1, 7]
        self.address = self._table.ctypes.data

    def make(self) -> None:
        """Make all of them, in order, whatever the ones before returned."""
        machine_code(_MAKE_CALLS)(self.address)


# --- this process's own memory ----------------------------------------------------------------------------------------


def give_back_memory() -> None:
    """malloc_trim(3): free memory goes back to the system, where the C library can do that."""
    trim = getattr(_LIBC, "malloc_trim", None)
    if trim is not None:
        trim(ctypes.c_size_t(0))


# --- descriptors and identity ---------------------------------------------------------------------------------------

KCMP_FILE, KCMP_VM, KCMP_FILES, KCMP_FS, KCMP_SIGHAND, KCMP_IO, KCMP_SYSVSEM = range(7)
KCMP_EQUAL, KCMP_LESS, KCMP_GREATER = range(3)


def syscall(name: str, *args: int) -> int:
    """Make a system call by name in this process; OSError when it fails."""
    result: int = _LIBC.syscall(
        ctypes.c_long(SYSCALL_NUMBERS[name]), *(ctypes.c_long(arg) for arg in args)
    )
    if result == -1:
        code = ctypes.get_errno()
        if code == errno.ESRCH:
            raise TaskDiedError(args[0] if args else 0, name)
        raise OSError(code, os.strerror(code), name)
    return result


def syscall_on(name: str, *args: int | bytes | bytearray) -> int:
    """`syscall` with memory: bytes are handed over by address, a bytearray is what the kernel may write to."""
    kept = [
        ctypes.create_string_buffer(one, len(one))
        if isinstance(one, bytes)
        else (ctypes.c_char * len(one)).from_buffer(one)
        if isinstance(one, bytearray)
        else one
        for one in args
    ]
    return syscall(name, *(one if isinstance(one, int) else ctypes.addressof(one) for one in kept))


def kcmp(pid1: int, pid2: int, kind: int, index1: int = 0, index2: int = 0) -> int:
    """kcmp(2): KCMP_EQUAL, KCMP_LESS or KCMP_GREATER, in an order the kernel keeps until reboot."""
    return syscall("kcmp", pid1, pid2, kind, index1, index2)


def compare_files(pid1: int, fd1: int, pid2: int, fd2: int) -> int:
    """kcmp(2) of two descriptors of stopped tasks. TaskDiedError when one is not there: it goes only with its task."""
    try:
        return kcmp(pid1, pid2, KCMP_FILE, fd1, fd2)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        raise TaskDiedError(pid2, "kcmp") from error


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a duplicate (close-on-exec) of descriptor `fd` of the process behind `pidfd`."""
    return syscall("pidfd_getfd", pidfd, fd, 0)


def scheduler(tid: int) -> bytes:
    """sched_getattr(2): struct sched_attr of one thread."""
    buffer = ctypes.create_string_buffer(SCHED_ATTR_LIMIT_BYTES)
    syscall("sched_getattr", tid, ctypes.addressof(buffer), SCHED_ATTR_LIMIT_BYTES, 0)
    return buffer.raw[: int.from_bytes(buffer.raw[:4], "little")]


def set_scheduler(tid: int, attributes: bytes) -> None:
    """sched_setattr(2) of what `scheduler` gave."""
    buffer = ctypes.create_string_buffer(attributes, len(attributes))
    syscall("sched_setattr", tid, ctypes.addressof(buffer), 0)


def io_priority(tid: int) -> int:
    """ioprio_get(2) of one thread."""
    return syscall("ioprio_get", 1, tid)


_SOL_SOCKET, _SO_ATTACH_FILTER = 1, 26


def socket_filter(fd: int) -> bytes:
    """SO_GET_FILTER: a socket's classic BPF program, 8 bytes an instruction. OSError EACCES: it is an extended one."""
    count = ctypes.c_int(0)
    syscall("getsockopt", fd, _SOL_SOCKET, _SO_ATTACH_FILTER, 0, ctypes.addressof(count))
    if not count.value:
        return b""
    program = ctypes.create_string_buffer(8 * count.value)
    where = ctypes.addressof(program)
    syscall("getsockopt", fd, _SOL_SOCKET, _SO_ATTACH_FILTER, where, ctypes.addressof(count))
    return program.raw


def query_socket_option(fd: int, level: int, number: int, argument: bytes) -> bytes:
    """getsockopt(2) of an option that reads its buffer first (MCAST_MSFILTER); the buffer as it is then."""
    buffer = ctypes.create_string_buffer(argument, len(argument))
    length = ctypes.c_int(len(argument))
    syscall("getsockopt", fd, level, number, ctypes.addressof(buffer), ctypes.addressof(length))
    return buffer.raw[: length.value]


def attach_socket_filter(fd: int, program: bytes) -> None:
    """SO_ATTACH_FILTER, with what `socket_filter` gave."""
    instructions = ctypes.create_string_buffer(program, len(program))
    argument = struct.pack("=HxxxxxxQ", len(program) // 8, ctypes.addressof(instructions))
    buffer = ctypes.create_string_buffer(argument, len(argument))
    syscall(
        "setsockopt", fd, _SOL_SOCKET, _SO_ATTACH_FILTER, ctypes.addressof(buffer), len(argument)
    )


def peek_short(fd: int, length: int, flags: int) -> int:
    """recvfrom(2) of `length` bytes into room for one less, behind which nothing is mapped: how many were copied.

    What does not fit whole is not copied: 0, or the end of the last piece before it.
    """
    whole = -(-length // PAGE_BYTES) * PAGE_BYTES
    room = mmap.mmap(-1, whole + PAGE_BYTES)
    end = address_of(room) + whole
    try:
        syscall("mprotect", end, PAGE_BYTES, 0)
        return syscall("recvfrom", fd, end - (length - 1), length, flags, 0, 0)
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        return 0
    finally:
        room.close()


_CLONE_FILES: Final = 0x400
_CLONE_PARENT_SETTID: Final = 0x100000
_PR_SET_SECUREBITS: Final = 28
_SECBIT_NO_SETUID_FIXUP: Final = 4


def clone_child(number: int, flags: int = 0) -> int:
    """clone3(2): a copy of this process with pid `number` (0: any) that shares its descriptors; 0 in the child.

    No signal at its end: wait with `WALL`. OSError EEXIST when the number is in use.
    """
    wanted, made = ctypes.c_int(number), ctypes.c_int(0)
    where, count = (ctypes.addressof(wanted), 1) if number else (0, 0)
    arguments = struct.pack(
        "=11Q", _CLONE_FILES | _CLONE_PARENT_SETTID | flags, 0, 0, ctypes.addressof(made),
        0, 0, 0, 0, where, count, 0,
    )  # fmt: skip
    buffer = ctypes.create_string_buffer(arguments, len(arguments))
    if _is_child(SYSCALL_NUMBERS["clone3"], ctypes.addressof(buffer), len(arguments)):
        return 0
    if not made.value:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), "clone3")
    return made.value


_syscall_alone = ctypes.PyDLL(None, use_errno=True).syscall
_syscall_alone.argtypes = (ctypes.c_long,) * 3
_syscall_alone.restype = ctypes.c_long
_begin_anew = ctypes.pythonapi.PyOS_AfterFork_Child
_begin_anew.argtypes = (ctypes.c_long,)
_begin_anew.restype = None


def _is_child(*arguments: int) -> bool:
    """Make a system call that copies this process; whether this is the copy.

    A call by ctypes.CDLL lets go of the interpreter meanwhile. Another thread may have it then, which the copy has not:
    it would wait for it for ever. So it is kept, and in the copy made anew before any Python code runs, where the
    interpreter looks whether somebody else wants it. `map` and `filterfalse` are not Python code.
    """
    calls = map(_syscall_alone, *((one,) for one in arguments))
    return bool([*map(_begin_anew, filterfalse(None, calls))])


def mount(source: bytes, target: bytes, kind: bytes, flags: int, data: bytes = b"") -> None:
    """mount(2)."""
    texts = [ctypes.create_string_buffer(text) for text in (source, target, kind, data)]
    *names, words = (ctypes.addressof(text) for text in texts)
    syscall("mount", *names, flags, words)


def take_identity(uid: int, gid: int, groups: Sequence[int]) -> None:
    """Change the ids of the calling thread, capabilities kept (SECBIT_NO_SETUID_FIXUP, capabilities(7))."""
    syscall("prctl", _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP, 0, 0, 0)
    numbers = (ctypes.c_uint32 * len(groups))(*groups)
    syscall("setgroups", len(groups), ctypes.addressof(numbers))
    syscall("setresgid", gid, gid, gid)
    syscall("setresuid", uid, uid, uid)


# --- userfaultfd and PAGEMAP_SCAN -----------------------------------------------------------------------------------

UFFD_API: Final = 0xAA
UFFD_FEATURE_PAGEFAULT_FLAG_WP: Final = 1 << 0
UFFD_FEATURE_WP_HUGETLBFS_SHMEM: Final = 1 << 12
UFFD_FEATURE_WP_UNPOPULATED: Final = 1 << 13
UFFD_FEATURE_WP_ASYNC: Final = 1 << 15
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_UNREGISTER = 0x8010AA01
_UFFDIO_REGISTER_MODE_WP = 2

_PAGEMAP_SCAN = 0xC0606610
PM_SCAN_WP_MATCHING: Final = 1
PM_SCAN_CHECK_WPASYNC: Final = 2
PAGE_IS_WPALLOWED: Final = 1 << 0
PAGE_IS_WRITTEN: Final = 1 << 1
PAGE_IS_FILE: Final = 1 << 2
PAGE_IS_PRESENT: Final = 1 << 3
PAGE_IS_SWAPPED: Final = 1 << 4
PAGE_IS_PFNZERO: Final = 1 << 5
PAGE_IS_HUGE: Final = 1 << 6
PAGE_IS_GUARD: Final = 1 << 8  # Linux 6.15


def userfaultfd_api(fd: int, features: int) -> int:
    """UFFDIO_API: agree on `features`; returns those the kernel has. OSError EINVAL when one is missing."""
    argument = bytearray(struct.pack("=QQQ", UFFD_API, features, 0))
    fcntl.ioctl(fd, _UFFDIO_API, argument)
    return int(struct.unpack("=QQQ", argument)[1])


def userfaultfd_register_wp(fd: int, start: int, length: int) -> None:
    """UFFDIO_REGISTER for write-protection of [start, start + length)."""
    argument = bytearray(struct.pack("=QQQQ", start, length, _UFFDIO_REGISTER_MODE_WP, 0))
    fcntl.ioctl(fd, _UFFDIO_REGISTER, argument)


def userfaultfd_unregister(fd: int, start: int, length: int) -> None:
    """UFFDIO_UNREGISTER of [start, start + length)."""
    fcntl.ioctl(fd, _UFFDIO_UNREGISTER, struct.pack("=QQ", start, length))


class PageRange(NamedTuple):
    """Pages [start, end) (addresses) of equal categories."""

    start: int
    end: int
    categories: int


_SCAN_REGIONS = 4096
_SCAN_BUFFER = ctypes.create_string_buffer(24 * _SCAN_REGIONS)
_SCAN_REGION = struct.Struct("=QQQ")


def as_pages(regions: bytes) -> list[PageRange]:
    """What `scan_regions` gave, parsed."""
    return [PageRange(*region) for region in _SCAN_REGION.iter_unpack(regions)]


def scan_regions(
    pagemap_fd: int,
    start: int,
    end: int,
    *,
    all_of: int = 0,
    any_of: int = 0,
    inverted: int = 0,
    returned: int,
    write_protect: bool = False,
) -> bytes:
    """PAGEMAP_SCAN (Linux 6.7) over [start, end) of the process behind `pagemap_fd` (its /proc/pid/pagemap).

    A page matches when, after flipping `inverted`, it has every category of `all_of` and, unless 0, one of `any_of`.
    With `write_protect` each matching page is armed again in the same step. Returns an array of struct page_region with
    `returned` categories: equal ones are told by their bytes.
    """
    found = b""
    flags = PM_SCAN_WP_MATCHING if write_protect else 0
    buffer = ctypes.addressof(_SCAN_BUFFER)
    while start < end:
        argument = bytearray(
            struct.pack(
                "=12Q", 96, flags, start, end, 0, buffer, _SCAN_REGIONS, 0, inverted, all_of, any_of, returned
            )
        )  # fmt: skip
        count = fcntl.ioctl(pagemap_fd, _PAGEMAP_SCAN, argument)
        found += bytes(memoryview(_SCAN_BUFFER)[: 24 * count])
        walked = int(struct.unpack_from("=Q", argument, 32)[0])
        assert walked > start, "PAGEMAP_SCAN made no progress"
        start = walked
    return found


_SCAN_ARGUMENT_WORDS: Final = 12
_FAST_FLAGS: Final = PM_SCAN_WP_MATCHING | PM_SCAN_CHECK_WPASYNC


class WrittenScan:
    """`scan_written` of one stretch as a call that others make, again and again."""

    def __init__(self, start: int, end: int) -> None:
        self.end = end
        self._regions = np.zeros((_SCAN_REGIONS, 3), np.uint64)
        self._argument = np.array(
            [
                8 * _SCAN_ARGUMENT_WORDS, _FAST_FLAGS, start, end, 0, self._regions.ctypes.data, _SCAN_REGIONS, 0, 0,
                PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN,
            ],
            np.uint64,
        )  # fmt: skip
        self.arguments = (
            _PAGEMAP_SCAN,
            self._argument.ctypes.data,
        )  # of ioctl(2), but for the descriptor

    def told(self, result: int) -> tuple[RangeArray | None, int]:
        """Pages up to an address, which is the end but for very many; None where `scan_written` gives that."""
        if result == -errno.EPERM:
            return None, self.end
        if result < 0:
            raise OSError(-result, os.strerror(-result), "PAGEMAP_SCAN")
        return self._regions[:result, :2].copy(), int(self._argument[4])


def scan_written(pagemap_fd: int, start: int, end: int) -> RangeArray | None:
    """Pages of [start, end) that were written, armed again; None when a mapping there is not armed at all.

    The form of PAGEMAP_SCAN that has a short cut in the kernel. Pages that are not there count as written once.
    """
    found = []
    buffer = ctypes.addressof(_SCAN_BUFFER)
    while start < end:
        argument = bytearray(
            struct.pack(
                "=12Q", 96, _FAST_FLAGS, start, end, 0, buffer, _SCAN_REGIONS, 0, 0, PAGE_IS_WRITTEN, 0, PAGE_IS_WRITTEN
            )
        )  # fmt: skip
        try:
            count = fcntl.ioctl(pagemap_fd, _PAGEMAP_SCAN, argument)
        except OSError as error:
            if error.errno != errno.EPERM:
                raise
            return None
        regions = np.frombuffer(memoryview(_SCAN_BUFFER), dtype=np.uint64, count=3 * count).reshape(
            -1, 3
        )
        found.append(regions[:, :2].copy())
        walked = int(struct.unpack_from("=Q", argument, 32)[0])
        assert walked > start, "PAGEMAP_SCAN made no progress"
        start = walked
    return found[0] if len(found) == 1 else np.concatenate([NOTHING, *found])


class PresenceLook:
    """Whether there is a page at each of some addresses: move_pages(2) without a place to move them to.

    Made once and used again and again. Where the kernel has no such call (CONFIG_NUMA), nothing is known to be present.
    """

    def __init__(self, addresses: Sequence[int]) -> None:
        self._addresses = np.array(addresses, dtype=np.uint64)
        self._nodes = np.zeros(len(addresses), dtype=np.int32)
        # of move_pages(2), but for the process
        self.arguments = len(addresses), self._addresses.ctypes.data, 0, self._nodes.ctypes.data, 0

    def absent(self, pid: int) -> Sequence[int]:
        """Positions, in the addresses, of those without a page in process `pid`. Raises TaskDiedError."""
        if not len(self._nodes):
            return []
        result = _LIBC.syscall(
            ctypes.c_long(SYSCALL_NUMBERS["move_pages"]),
            *(ctypes.c_long(one) for one in (pid, *self.arguments)),
        )
        return self.told(pid, -ctypes.get_errno() if result == -1 else result)

    def told(self, pid: int, result: int) -> Sequence[int]:
        """`absent` of a call that was made; `result`: what the kernel returned, a negative errno for a failure."""
        if not len(self._nodes):
            return []
        if result == -errno.ESRCH:
            raise TaskDiedError(pid, "move_pages")
        if result == -errno.ENOSYS:
            self._nodes[:] = -errno.ENOENT
        elif result < 0:
            raise OSError(-result, os.strerror(-result), "move_pages")
        if self._nodes.min() >= 0:
            return []
        found: list[int] = (self._nodes < 0).nonzero()[0].tolist()
        return found


# --- event objects --------------------------------------------------------------------------------------------------

TFD_TIMER_ABSTIME: Final = 1
_TFD_IOC_SET_TICKS: Final = 0x40085400
_ITIMERSPEC = struct.Struct("=4q")


def timerfd_create(clock: int, flags: int) -> int:
    """timerfd_create(2)."""
    return syscall("timerfd_create", clock, flags)


def timerfd_gettime(fd: int) -> tuple[int, int]:
    """timerfd_gettime(2): (interval, time until the next expiration) in ns; the latter is 0 when disarmed."""
    buffer = ctypes.create_string_buffer(_ITIMERSPEC.size)
    syscall("timerfd_gettime", fd, ctypes.addressof(buffer))
    interval_s, interval_ns, value_s, value_ns = _ITIMERSPEC.unpack(buffer.raw)
    return interval_s * 10**9 + interval_ns, value_s * 10**9 + value_ns


def timerfd_settime(fd: int, flags: int, interval_ns: int, value_ns: int) -> None:
    """timerfd_settime(2); `value_ns` 0 disarms."""
    setting = _ITIMERSPEC.pack(*divmod(interval_ns, 10**9), *divmod(value_ns, 10**9))
    buffer = ctypes.create_string_buffer(setting, len(setting))
    syscall("timerfd_settime", fd, flags, ctypes.addressof(buffer), 0)


def timerfd_set_ticks(fd: int, ticks: int) -> None:
    """TFD_IOC_SET_TICKS: expirations that wait to be read. OSError ENOTTY without CONFIG_CHECKPOINT_RESTORE."""
    fcntl.ioctl(fd, _TFD_IOC_SET_TICKS, struct.pack("=Q", ticks))


def signalfd(mask: int, flags: int) -> int:
    """signalfd4(2): a new descriptor for the signals of `mask` (bit n-1 is signal n)."""
    value = ctypes.c_uint64(mask)
    return syscall("signalfd4", -1, ctypes.addressof(value), SIGMASK_BYTES, flags)


def inotify_init(flags: int) -> int:
    """inotify_init1(2)."""
    return syscall("inotify_init1", flags)


def inotify_add_watch(fd: int, path: bytes, mask: int) -> int:
    """inotify_add_watch(2): the watch descriptor."""
    buffer = ctypes.create_string_buffer(path)
    return syscall("inotify_add_watch", fd, ctypes.addressof(buffer), mask)


def inotify_rm_watch(fd: int, watch: int) -> None:
    """inotify_rm_watch(2)."""
    syscall("inotify_rm_watch", fd, watch)


KCMP_EPOLL_TFD: Final = 7
_EPOLL_CTL_ADD: Final = 1


def epoll_add(epoll: int, fd: int, event: bytes) -> None:
    """epoll_ctl(2) EPOLL_CTL_ADD with a packed struct epoll_event, its 64 bits of data free to choose."""
    buffer = ctypes.create_string_buffer(event, len(event))
    syscall("epoll_ctl", epoll, _EPOLL_CTL_ADD, fd, ctypes.addressof(buffer))


def is_epoll_target(epoll: tuple[int, int], target: tuple[int, int], number: int, nth: int) -> bool:
    """kcmp(2) KCMP_EPOLL_TFD: whether the `nth` entry for descriptor `number` of an epoll is that file.

    `epoll` and `target`: (pid, descriptor). False as well when the kernel knows no such entry.
    """
    slot = ctypes.create_string_buffer(struct.pack("=3I", epoll[1], number, nth), 12)
    try:
        return not kcmp(target[0], epoll[0], KCMP_EPOLL_TFD, target[1], ctypes.addressof(slot))
    except OSError as error:
        if error.errno != errno.ENOENT:
            raise
        return False


# --- files ----------------------------------------------------------------------------------------------------------

_STATFS_BYTES: Final = 120
MQUEUE_MAGIC: Final = 0x19800202


def filesystem_type(fd: int) -> int:
    """f_type of fstatfs(2): the magic number of the file's filesystem."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    syscall("fstatfs", fd, ctypes.addressof(buffer))
    return int.from_bytes(buffer.raw[:8], "little")


# --- file handles ---------------------------------------------------------------------------------------------------

_HANDLE_LIMIT_BYTES: Final = 128
_AT_EMPTY_PATH: Final = 0x1000


class FileHandle(NamedTuple):
    """struct file_handle of name_to_handle_at(2): names an inode within its filesystem."""

    kind: int
    data: bytes


def file_handle(fd: int) -> FileHandle:
    """name_to_handle_at(2) of an open file. OSError EOPNOTSUPP where the filesystem has no handles."""
    buffer = ctypes.create_string_buffer(
        struct.pack("=Ii", _HANDLE_LIMIT_BYTES, 0), 8 + _HANDLE_LIMIT_BYTES
    )
    mount, empty = ctypes.c_int(), ctypes.create_string_buffer(b"")
    syscall(
        "name_to_handle_at", fd, ctypes.addressof(empty), ctypes.addressof(buffer),
        ctypes.addressof(mount), _AT_EMPTY_PATH,
    )  # fmt: skip
    size, kind = struct.unpack_from("=Ii", buffer.raw)
    return FileHandle(kind, buffer.raw[8 : 8 + size])


def open_by_handle(mount_fd: int, handle: FileHandle, flags: int) -> int:
    """open_by_handle_at(2): `mount_fd` is any file of the filesystem. OSError ESTALE when the inode is gone."""
    data = struct.pack("=Ii", len(handle.data), handle.kind) + handle.data
    buffer = ctypes.create_string_buffer(data, len(data))
    return syscall("open_by_handle_at", mount_fd, ctypes.addressof(buffer), flags)


# --- rights of this thread ------------------------------------------------------------------------------------------


@contextmanager
def acting_as(uid: int, gid: int, groups: Sequence[int] = ()) -> Iterator[None]:
    """Look up and open files with the rights of `uid`, `gid` and `groups` alone, in this thread alone.

    setfsuid(2) takes CAP_DAC_OVERRIDE and its like away and gives them back; setgroups(2) is a thread's own matter
    below glibc. A process that is not root keeps the rights it has.
    """
    if os.geteuid() != 0 or (uid, gid) == (0, 0):
        yield
        return
    own = os.getgroups()
    kept = (ctypes.c_uint32 * len(own))(*own)
    taken = (ctypes.c_uint32 * len(groups))(*groups)
    syscall("setgroups", len(groups), ctypes.addressof(taken))
    try:
        syscall("setfsgid", gid)
        syscall("setfsuid", uid)
        yield
    finally:
        syscall("setfsuid", 0)
        syscall("setfsgid", 0)
        syscall("setgroups", len(own), ctypes.addressof(kept))
