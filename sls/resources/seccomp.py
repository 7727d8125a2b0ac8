"""seccomp(2): filters and strict mode of a thread.

While we work inside a thread its filters are suspended (PTRACE_O_SUSPEND_SECCOMP); a tracer that is killed at that
moment leaves the end of its work to the mercy of the filter. Filters that threads share come back as copies, so that a
later SECCOMP_FILTER_FLAG_TSYNC is refused to the program.

Not kept: filters of extended BPF, user notification: refused.
Kernel: Linux 4.4 (PTRACE_SECCOMP_GET_FILTER), root.
"""

import struct
from typing import Final

from sls import syscalls
from sls.freeze import FrozenThread
from sls.remote import In, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)

_PR_SET_SECCOMP: Final = 22
_MODE_STRICT, _MODE_FILTER = 1, 2
_SET_MODE_FILTER: Final = 1
_INSTRUCTION_BYTES: Final = 8


class SeccompFilter(Record, frozen=True):
    """One filter: its flags (SECCOMP_FILTER_FLAG_…) and its program for the classic BPF machine."""

    flags: int
    program: bytes


class SeccompRecord(ThreadRecord, frozen=True, tag="seccomp"):
    """`mode` 0 is none, 1 strict, 2 filters, the oldest first."""

    mode: int = 0
    filters: tuple[SeccompFilter, ...] = ()


class Seccomp(ThreadState[SeccompRecord]):
    """Which system calls the thread may make. Set before its credentials: only root may always set a filter."""

    stage = Stage.IDENTITY
    record = SeccompRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return process.status["Seccomp"] == "0"

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[SeccompRecord]:
        yield from ()
        status = process.status_of(thread.tid)
        mode = int(status["Seccomp"])
        if mode == _MODE_FILTER:
            process.looks.must_be_at_rest(f"the filter of thread {thread.tid}")
        if mode != _MODE_FILTER:
            return SeccompRecord(mode=mode)
        try:
            filters = tuple(
                SeccompFilter(
                    flags=syscalls.seccomp_flags(thread.tid, index),
                    program=syscalls.seccomp_program(thread.tid, index),
                )
                for index in range(int(status["Seccomp_filters"]))
            )
        except OSError as error:
            raise process.unsupported("seccomp", f"its filter: {error.strerror}") from error
        return SeccompRecord(mode=mode, filters=filters)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: SeccompRecord
    ) -> Remote[None]:
        if not record.mode:
            return
        syscalls.suspend_seccomp(tid)
        if record.mode == _MODE_STRICT:
            yield from remote_all([call("prctl", _PR_SET_SECCOMP, _MODE_STRICT, 0, 0, 0)])
        else:
            yield from remote_all(
                [
                    call("seccomp", _SET_MODE_FILTER, one.flags, _program(one.program))
                    for one in record.filters
                ]
            )


def _program(program: bytes) -> In:
    """struct sock_fprog."""
    count = len(program) // _INSTRUCTION_BYTES
    return In(struct.pack("=H6xQ", count, 0), ((8, In(program)),))
