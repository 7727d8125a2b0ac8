"""Threads that are stopped inside a restartable sequence, rseq(2). Single-threaded: asks as the tracer."""

import struct
from typing import Final

from sls import syscalls
from sls.freeze import FrozenThread

_CS_OFFSET: Final = 8  # struct rseq: cpu_id_start, cpu_id, rseq_cs
_CS = struct.Struct("=IIQQQ")  # version, flags, start_ip, post_commit_offset, abort_ip


def leave_sequence(thread: FrozenThread) -> None:
    """Point the registers of a thread inside a sequence at its abort handler.

    The kernel forgets the sequence once the thread runs elsewhere (our calls), so it is aborted here as a preemption
    would (kernel/rseq.c); the running thread gets the same. A thread in a system call is in none: a sequence may make
    no calls.
    """
    if not thread.rseq.address or not thread.registers.orig_rax >> 63:
        return
    tid, registers = thread.tid, thread.registers
    place = thread.rseq.address + _CS_OFFSET
    where = int.from_bytes(syscalls.read_memory(tid, place, 8), "little")
    if where:
        _, _, start, length, abort = _CS.unpack(syscalls.read_memory(tid, where, _CS.size))
        if start <= registers.rip < start + length:
            registers.rip = abort
