"""One thread: registers with the whole XSAVE area, mask, name, scheduling, and the addresses the kernel keeps for it.

A thread taken out of a system call makes it again after a restore, for the time that was left (`sls.sleep`); only a
timeout of a socket begins anew. Sources: ptrace(2), set_tid_address(2), get_robust_list(2), rseq(2), sched(7),
ioprio_set(2).

Not kept: debug registers; traps on RDTSC and CPUID, choices of mitigations (prctl(2), arch_prctl(2)).
Kernel: Linux 5.13 (PTRACE_GET_RSEQ_CONFIGURATION).
"""

import os
import struct
from functools import lru_cache, partial
from typing import Final

from sls import proc, syscalls
from sls.freeze import FrozenThread
from sls.remote import In, Out, Remote, call, remote_all, restarted
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)
from sls.sleep import below_stack, set_timeout

_PR_SET_NAME, _PR_GET_TID_ADDRESS = 15, 40
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_PR_MCE_KILL, _PR_MCE_KILL_SET = 33, 1
_STACK = struct.Struct("=QiIQ")
_SS_ONSTACK, _SS_DISABLE = 1, 2
_IOPRIO_WHO_PROCESS: Final = 1
_AFFINITY_BYTES: Final = 1024  # of 8,192 processors, the most that Linux knows
_SCHEDULER_BYTES: Final = syscalls.SCHED_ATTR_LIMIT_BYTES


class ThreadStateRecord(ThreadRecord, frozen=True, tag="thread"):
    """Registers (user_regs_struct, XSAVE area in standard form) and per-thread kernel state.

    `sleeping_call`: number of a call that is made again, for `sleep_left_ns`, whose struct timespec may lie at
    `scratch_address`; -1 is none. `scheduler`: struct sched_attr; the fields before it say the same in short.
    """

    registers: bytes
    xstate: bytes
    sigmask: int
    comm: bytes
    clear_child_tid: int
    robust_list: int
    robust_list_bytes: int
    rseq_address: int
    rseq_bytes: int
    rseq_signature: int
    policy: int
    priority: int
    nice: int
    io_priority: int
    affinity: tuple[int, ...]
    sleeping_call: int = -1
    sleep_left_ns: int | None = None
    scratch_address: int = 0
    timer_slack_ns: int = 50_000
    scheduler: bytes = b""
    memory_failure: proc.MemoryFailure = proc.MemoryFailure.DEFAULT


class Thread(ThreadState[ThreadStateRecord]):
    """One thread."""

    stage = Stage.LINKS
    record = ThreadStateRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[ThreadStateRecord]:
        (
            address,
            stack,
            slack,
            robust_list,
            io_priority,
            affinity,
            scheduler,
        ) = yield from remote_all(
            [
                call("prctl", _PR_GET_TID_ADDRESS, Out(8)),
                call("sigaltstack", 0, Out(_STACK.size)),
                call("prctl", _PR_GET_TIMERSLACK),
                call("get_robust_list", 0, Out(8), Out(8)),
                call("ioprio_get", _IOPRIO_WHO_PROCESS, 0),
                call("sched_getaffinity", 0, _AFFINITY_BYTES, Out(_AFFINITY_BYTES)),
                call("sched_getattr", 0, Out(_SCHEDULER_BYTES), _SCHEDULER_BYTES, 0),
            ]
        )
        sleeping = thread.sleeping_call
        tid = thread.tid
        stat = proc.parse_stat(process.read_of_thread(tid, "stat"))
        xstate = process.looks.of(("xstate", tid), partial(syscalls.get_xstate, tid))
        head, head_bytes = (int.from_bytes(one, "little") for one in robust_list.outputs)
        return ThreadStateRecord(
            registers=syscalls.registers_to_bytes(thread.registers),
            xstate=xstate,
            sigmask=thread.sigmask,
            comm=stat.comm,
            clear_child_tid=int.from_bytes(address.outputs[0], "little"),
            robust_list=head,
            robust_list_bytes=head_bytes,
            rseq_address=thread.rseq.address,
            rseq_bytes=thread.rseq.size_bytes,
            rseq_signature=thread.rseq.signature,
            policy=stat.policy,
            priority=stat.rt_priority,
            nice=stat.nice,
            io_priority=io_priority.value,
            affinity=_processors(affinity.outputs[0][: affinity.value]),
            sleeping_call=sleeping.number if sleeping else -1,
            sleep_left_ns=sleeping.remaining_ns if sleeping else None,
            timer_slack_ns=slack.value,
            scheduler=_attributes(scheduler.outputs[0]),
            scratch_address=_scratch(thread.registers, stack.outputs[0]),
            memory_failure=stat.memory_failure,
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: ThreadStateRecord
    ) -> Remote[None]:
        calls = [
            call("set_tid_address", record.clear_child_tid),
            call("prctl", _PR_SET_NAME, In(record.comm + b"\0")),
            call("prctl", _PR_SET_TIMERSLACK, record.timer_slack_ns),
        ]
        if record.robust_list:
            calls.append(call("set_robust_list", record.robust_list, record.robust_list_bytes))
        if record.rseq_address:
            calls.append(
                call("rseq", record.rseq_address, record.rseq_bytes, 0, record.rseq_signature)
            )
        if record.memory_failure is not proc.MemoryFailure.DEFAULT:
            value = record.memory_failure.value
            calls.append(call("prctl", _PR_MCE_KILL, _PR_MCE_KILL_SET, value, 0, 0))
        yield from remote_all(calls)
        _schedule(ctx, process, tid, record)


def final_registers(record: ThreadStateRecord) -> syscalls.Registers:
    """Registers with which the thread goes on: interrupted calls are made again."""
    registers = syscalls.registers_from_bytes(record.registers)
    if record.sleeping_call >= 0:
        registers.orig_rax = record.sleeping_call
    return restarted(registers, block_is_kept=False)


def resume_registers(tid: int, record: ThreadStateRecord) -> syscalls.Registers:
    """`final_registers` of a thread whose memory is complete: a sleep goes on for the time that was left."""
    registers = final_registers(record)
    if record.sleep_left_ns is not None:
        set_timeout(
            tid, registers, record.sleeping_call, record.sleep_left_ns, record.scratch_address
        )
    return registers


def _scratch(registers: syscalls.Registers, stack: bytes) -> int:
    """Where 16 bytes of the thread's memory are nobody's: its alternate stack, or below its stack."""
    address, flags, _, _ = _STACK.unpack(stack)
    return below_stack(registers) if flags & (_SS_ONSTACK | _SS_DISABLE) else int(address)


@lru_cache(maxsize=64)
def _processors(mask: bytes) -> tuple[int, ...]:
    """Numbers of the processors in a cpu_set_t."""
    bits = int.from_bytes(mask, "little")
    return tuple(number for number in range(bits.bit_length()) if bits >> number & 1)


def _attributes(room: bytes) -> bytes:
    """A struct sched_attr, which begins with its size."""
    return room[: int.from_bytes(room[:4], "little")]


def _schedule(
    ctx: RestoreContext, process: RestoredProcess, tid: int, record: ThreadStateRecord
) -> None:
    present = os.sched_getaffinity(0) | set(range(os.cpu_count() or 1))
    wanted = set(record.affinity) & present
    try:
        if wanted and wanted != os.sched_getaffinity(tid):
            os.sched_setaffinity(tid, wanted)
        if syscalls.scheduler(tid) != record.scheduler:
            syscalls.set_scheduler(tid, record.scheduler)
        if record.io_priority != syscalls.io_priority(tid):
            syscalls.syscall("ioprio_set", 1, tid, record.io_priority)
    except OSError as error:
        ctx.note(
            "scheduling",
            f"affinity, class or priority of thread {tid}: {error.strerror}",
            process.pid,
        )
