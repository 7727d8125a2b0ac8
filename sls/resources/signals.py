"""Signal actions, alternate stacks, and signals that wait to be delivered (sigaction(2), signal(7)).

Masks are in the thread's record. Queued signals are put back with rt_sigqueueinfo(2) by the task itself, the only
sender that the kernel lets forge a siginfo_t.

Not kept: nothing.
Kernel: Linux 3.10 (PTRACE_PEEKSIGINFO).
"""

import signal
import struct
from collections.abc import Hashable
from functools import partial
from typing import Final

from sls import proc, syscalls
from sls.freeze import FrozenThread
from sls.observations import Observations
from sls.remote import In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)

_SIGNALS: Final = range(1, 65)
_MOST: Final = 5000  # in one queue
_UNCHANGEABLE: Final = (9, 19)
_SIGACTION_BYTES: Final = 32
_STACK = struct.Struct("=QiIQ")
_SS_ONSTACK, _SS_DISABLE = 1, 2


class SignalAction(Record, frozen=True):
    """The kernel's struct sigaction of one signal: handler, flags, restorer, mask."""

    number: int
    action: bytes


class SignalActionsRecord(ProcessRecord, frozen=True, tag="signal-actions"):
    """Actions that are not the default, and the process's queue in order (siginfo_t each)."""

    actions: tuple[SignalAction, ...]
    queue: tuple[bytes, ...]


class SignalActions(ProcessState[SignalActionsRecord]):
    """The process's actions and queue."""

    stage = Stage.LINKS
    record = SignalActionsRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[SignalActionsRecord]:
        numbers = [number for number in _SIGNALS if number not in _UNCHANGEABLE]
        replies = yield [
            call("rt_sigaction", number, 0, Out(_SIGACTION_BYTES), 8) for number in numbers
        ]
        return SignalActionsRecord(
            actions=tuple(
                SignalAction(number=number, action=reply.outputs[0])
                for number, reply in zip(numbers, replies, strict=True)
                if reply.check() == 0 and any(reply.outputs[0])
            ),
            queue=_queue(process, process.tid, shared=True),
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SignalActionsRecord
    ) -> Remote[None]:
        # first to the default, which drops what children made here by their ends have queued
        calls = [call("rt_sigaction", signal.SIGCHLD, In(bytes(_SIGACTION_BYTES)), 0, 8)]
        calls += [call("rt_sigaction", one.number, In(one.action), 0, 8) for one in record.actions]
        calls += [
            call("rt_sigqueueinfo", process.own_number(process.pid), signal_number(info), In(info))
            for info in record.queue
        ]
        yield from remote_all(calls)


class ThreadSignalsRecord(ThreadRecord, frozen=True, tag="thread-signals"):
    """Alternate stack (sigaltstack(2): address, flags, bytes) and the thread's own queue."""

    stack_address: int
    stack_flags: int
    stack_bytes: int
    queue: tuple[bytes, ...]


class ThreadSignals(ThreadState[ThreadSignalsRecord]):
    """The thread's stack for handlers and its queue."""

    stage = Stage.LINKS
    record = ThreadSignalsRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[ThreadSignalsRecord]:
        (reply,) = yield [call("sigaltstack", 0, Out(_STACK.size))]
        reply.check()
        address, flags, _, size = _STACK.unpack(reply.outputs[0])
        return ThreadSignalsRecord(
            stack_address=address,
            stack_flags=flags & ~_SS_ONSTACK,
            stack_bytes=size,
            queue=_queue(process, thread.tid, shared=False),
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: ThreadSignalsRecord
    ) -> Remote[None]:
        numbers = process.own_number(process.pid), process.own_number(tid)
        calls = [
            call("rt_tgsigqueueinfo", *numbers, signal_number(info), In(info))
            for info in record.queue
        ]
        if not record.stack_flags & _SS_DISABLE:
            stack = _STACK.pack(record.stack_address, record.stack_flags, 0, record.stack_bytes)
            calls.append(call("sigaltstack", In(stack), 0))
        yield from remote_all(calls)


def _queue(process: CapturedProcess, tid: int, *, shared: bool) -> tuple[bytes, ...]:
    """What waits; SIGSTOP, which nothing can hold back, is the process's being stopped."""
    status = process.status_of(tid)
    pending = int(status["ShdPnd" if shared else "SigPnd"], 16)
    peek = partial(_peek, process.looks, process.status_key(tid), tid, shared)
    found = process.looks.of(("signals", tid, shared), peek)
    if len(found) > _MOST:
        raise process.unsupported(
            f"thread {tid}",
            f"more than {_MOST} signals wait to be delivered, too many to be looked at while everyone stands still; "
            "try again when it has taken some",
        )
    told = {signal_number(info) for info in found}
    untold = [number for number in _SIGNALS if pending >> number - 1 & 1 and number not in told]
    queue = [*found, *map(_without_information, untold)]
    return tuple(info for info in queue if signal_number(info) not in _UNCHANGEABLE)


def _peek(looks: Observations, status_key: Hashable, tid: int, shared: bool) -> list[bytes]:
    """What is queued; there is nothing to ask for where the status, seen before, says that no signal waits."""
    status = looks.seen(status_key)
    if status is not None and not int(proc.Fields(status)["ShdPnd" if shared else "SigPnd"], 16):
        return []
    return syscalls.peek_siginfo(tid, shared=shared, most=_MOST)


def _without_information(number: int) -> bytes:
    """What the kernel tells of a signal that there was no room for (RLIMIT_SIGPENDING): SI_USER, from nobody."""
    return number.to_bytes(syscalls.SIGINFO_BYTES, "little")


def signal_number(info: bytes) -> int:
    """Which signal a siginfo_t is about."""
    return int.from_bytes(info[:4], "little", signed=True)
