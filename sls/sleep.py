"""Calls that a thread sleeps in when it is stopped: which one, and how much of its time is left.

Being stopped by a tracer interrupts a call. The kernel makes most of them again by itself, with the time that was left
(a *restart block*, kernel/time/hrtimer.c), and the program sees nothing. Two things it leaves to us:

- A few calls answer EINTR although no handler ran (signal(7), "Interruption … by stop signals"). They are turned into
  calls that are made again, for the time that was left.
- The restart block stays behind when a thread comes back elsewhere, and nobody can read it. What is left of the sleep
  is the whole time less the time slept, and the scheduler knows since when a thread sleeps: `se.exec_start` of
  /proc/<tid>/sched is the last instant at which it ran, on the clock of its processor, which excludes interrupts and
  stolen time; our own entry there, on the same processor, tells how that clock stands. Without that file a call is
  made again for its whole time.

A timeout of a socket (SO_RCVTIMEO) begins anew. Single-threaded.
"""

import errno
import os
import re
import signal
import struct
import time
from typing import Final, NamedTuple

from sls import proc, syscalls
from sls.errors import TaskDiedError
from sls.remote import ERESTART_RESTARTBLOCK, ERESTARTNOHAND, RESTART_SYSCALL
from sls.syscalls import SYSCALL_NUMBERS, Registers

_MASK64: Final = (1 << 64) - 1
_TIMER_ABSTIME: Final = 1
_FUTEX_WAIT: Final = 0
_FUTEX_COMMANDS: Final = 127
_TIMESPEC = struct.Struct("=qq")
_TIMESPEC_NAME, _MILLISECONDS_NAME = "timespec", "milliseconds"

# call → (register of its relative timeout, how it is given)
_TIMEOUTS: Final[dict[int, tuple[str, str]]] = {
    SYSCALL_NUMBERS[name]: where
    for name, where in {
        "nanosleep": ("rdi", _TIMESPEC_NAME),
        "clock_nanosleep": ("rdx", _TIMESPEC_NAME),
        "poll": ("rdx", _MILLISECONDS_NAME),
        "futex": ("r10", _TIMESPEC_NAME),
        "epoll_wait": ("r10", _MILLISECONDS_NAME),
        "epoll_pwait": ("r10", _MILLISECONDS_NAME),
        "epoll_pwait2": ("r10", _TIMESPEC_NAME),
        "rt_sigtimedwait": ("rdx", _TIMESPEC_NAME),
        "semtimedop": ("r10", _TIMESPEC_NAME),
        "io_getevents": ("r8", _TIMESPEC_NAME),
    }.items()
}
# calls that answer EINTR when a tracer stops them; those of sockets and files do so with a timeout of the socket
_INTERRUPTED: Final = frozenset(
    SYSCALL_NUMBERS[name]
    for name in (
        "epoll_wait", "epoll_pwait", "epoll_pwait2", "rt_sigtimedwait", "semop", "semtimedop", "io_getevents",
        "io_uring_enter",
        "read", "readv", "write", "writev", "recvfrom", "recvmsg", "sendto", "sendmsg", "accept", "accept4", "connect",
    )
)  # fmt: skip
_OFFSET_HOLDS_NS: Final = 250_000_000
_LAST_RAN = re.compile(rb"se\.exec_start\s*:\s*(\d+)\.(\d+)")
_SWITCHES = re.compile(rb"nr_voluntary_switches\s*:\s*(\d+)")


class SleepingCall(NamedTuple):
    """A call that the thread is to make again. `remaining_ns` is None where it has no relative timeout.

    `whole_ns`: what remains if the thread went to sleep another number of times than `switches` until it was stopped.
    """

    number: int
    remaining_ns: int | None
    whole_ns: int | None = None
    switches: int = 0


class _Asleep(NamedTuple):
    """What /proc tells of a thread before it is interrupted."""

    number: int
    channel: bytes
    since_ns: int  # CLOCK_MONOTONIC
    switches: int


class _Known(NamedTuple):
    """A sleep that the kernel goes on with after a capture: its call's number is gone then, its place is not."""

    place: tuple[int, int]  # rip, rsp
    number: int
    deadline_ns: int | None
    switches: int  # until it was let go

    @property
    def left_ns(self) -> int | None:
        return None if self.deadline_ns is None else max(0, self.deadline_ns - time.monotonic_ns())


class Sleepers:
    """Sleeping threads of one partition, remembered from capture to capture."""

    def __init__(self) -> None:
        self._asleep: dict[int, _Asleep] = {}
        self._known: dict[int, _Known] = {}
        self._clocks = _Clocks()

    def look(self, tid: int) -> int:
        """Note what `tid` sleeps in, before it is interrupted. Returns the number of its call, -1 when it runs."""
        self._asleep.pop(tid, None)
        number = -1
        try:
            word = proc.reread(tid, "syscall").partition(b" ")[0]
            number = int(word) if word.isdigit() else -1
            if number in _TIMEOUTS or number == RESTART_SYSCALL:
                channel = proc.reread(tid, "wchan")
                ran_ns, switches = _last_ran(tid)
                since_ns = self._clocks.monotonic(
                    proc.parse_stat(proc.reread(tid, "stat")).processor, ran_ns
                )
                self._asleep[tid] = _Asleep(number, channel, since_ns, switches)
        except (TaskDiedError, OSError):
            pass  # it ends, or this kernel does not tell: the whole time then
        return number

    def settle(self, tid: int, registers: Registers) -> SleepingCall | None:
        """What the stopped thread sleeps in, for `confirm`. Calls that would answer EINTR are made to be made again."""
        known, asleep = self._known.pop(tid, None), self._asleep.pop(tid, None)
        if known is not None and _is_about_to_restart(registers, known):
            # stopped again before it made its call again: as it was, with the kernel's restart block still there
            registers.rip += 2
            registers.orig_rax = RESTART_SYSCALL
            registers.rax = _MASK64 + 1 - ERESTART_RESTARTBLOCK
        if registers.orig_rax >> 63:
            return None
        code = (registers.rax ^ _MASK64) + 1
        if code == ERESTART_RESTARTBLOCK:
            return self._blocked(tid, registers, known, asleep)
        if code == errno.EINTR and registers.orig_rax in _INTERRUPTED and not _has_signal(tid):
            registers.rax = _MASK64 + 1 - ERESTARTNOHAND
            remaining = _remaining(tid, registers.orig_rax, registers, asleep)
            if remaining is not None:
                set_timeout(tid, registers, registers.orig_rax, remaining, below_stack(registers))
        return None

    def confirm(
        self, tid: int, registers: Registers, call: SleepingCall, switches: int
    ) -> SleepingCall:
        """`call` of the stopped thread, which has gone to sleep so many times: whole again if it ran meanwhile."""
        if call.whole_ns is not None and call.switches != switches:
            call = SleepingCall(call.number, call.whole_ns)
        deadline = None
        if call.remaining_ns is not None:
            deadline = time.monotonic_ns() + call.remaining_ns
        self._known[tid] = _Known((registers.rip, registers.rsp), call.number, deadline, switches)
        return call

    def ran(self, tid: int, stops: int) -> None:
        """The thread has run for us since it was stopped, and has stopped so many times more."""
        if (known := self._known.get(tid)) is not None:
            self._known[tid] = known._replace(switches=known.switches + stops)

    @staticmethod
    def _blocked(
        tid: int, registers: Registers, known: _Known | None, asleep: _Asleep | None
    ) -> SleepingCall:
        number = registers.orig_rax
        if known is not None and known.place != (registers.rip, registers.rsp):
            known = None
        if number == RESTART_SYSCALL:
            if known is not None:
                return SleepingCall(known.number, known.left_ns)
            number = _guess(registers, asleep.channel if asleep else b"")
        whole = _timeout_ns(tid, number, registers)
        if whole is not None and asleep is None and known is not None and known.number == number:
            # stopped again before it had left its last stop
            return SleepingCall(number, known.left_ns, whole, known.switches + 1)
        if whole is None or asleep is None or not _is_in(asleep, number):
            return SleepingCall(number, whole)
        slept = time.monotonic_ns() - asleep.since_ns
        return SleepingCall(number, _left(whole, slept), whole, asleep.switches + 1)


def _is_about_to_restart(registers: Registers, known: _Known) -> bool:
    return registers.rax == RESTART_SYSCALL and (registers.rip + 2, registers.rsp) == known.place


class _Clocks:
    """How the scheduler's clock of each processor stands against CLOCK_MONOTONIC."""

    def __init__(self) -> None:
        self._offsets: dict[int, tuple[int, int]] = {}  # processor → (offset, when it was found)

    def monotonic(self, processor: int, clock_ns: int) -> int:
        """The time at which the processor's clock showed `clock_ns`, as of the last quarter of a second."""
        offset, found_ns = self._offsets.get(processor, (0, -_OFFSET_HOLDS_NS))
        if time.monotonic_ns() - found_ns > _OFFSET_HOLDS_NS:
            offset, found_ns = self._offsets[processor] = self._find(processor)
        return clock_ns + offset

    @staticmethod
    def _find(processor: int) -> tuple[int, int]:
        """Go there for a moment. OSError when this process may not."""
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {processor})
        try:
            os.sched_yield()
            now_ns = time.monotonic_ns()
            return now_ns - _last_ran(os.getpid())[0], now_ns
        finally:
            os.sched_setaffinity(0, allowed)


def _last_ran(tid: int) -> tuple[int, int]:
    """(the last instant at which the thread ran, in ns of the scheduler's clock; number of times it went to sleep)."""
    text = proc.reread(tid, "sched")
    ran, switches = _LAST_RAN.search(text), _SWITCHES.search(text)
    if ran is None or switches is None:
        raise OSError(errno.ENODATA, "no such field in /proc/<tid>/sched")
    return int(ran[1]) * 10**6 + int(ran[2]), int(switches[1])


def _slept_ns(tid: int, asleep: _Asleep | None) -> int:
    """How long the thread slept until it was stopped, if it ran no more than to stop since it was looked at."""
    if asleep is None or _last_ran(tid)[1] != asleep.switches + 1:
        return 0
    return time.monotonic_ns() - asleep.since_ns


def _is_in(asleep: _Asleep, number: int) -> bool:
    """Whether it was that call that the thread was seen in."""
    return asleep.number in (number, RESTART_SYSCALL)


def _left(whole_ns: int, slept_ns: int) -> int:
    return max(0, whole_ns - max(0, slept_ns))


def _remaining(tid: int, number: int, registers: Registers, asleep: _Asleep | None) -> int | None:
    whole = _timeout_ns(tid, number, registers)
    if whole is None:
        return None
    if asleep is not None and not _is_in(asleep, number):
        asleep = None
    return _left(whole, _slept_ns(tid, asleep))


def _timeout_ns(tid: int, number: int, registers: Registers) -> int | None:
    """The whole relative timeout of a call; None when there is none, or an absolute one."""
    if number not in _TIMEOUTS:
        return None
    if number == SYSCALL_NUMBERS["clock_nanosleep"] and registers.rsi & _TIMER_ABSTIME:
        return None
    if number == SYSCALL_NUMBERS["futex"] and registers.rsi & _FUTEX_COMMANDS != _FUTEX_WAIT:
        return None
    register, form = _TIMEOUTS[number]
    value: int = getattr(registers, register)
    if form == _MILLISECONDS_NAME:
        milliseconds: int = struct.unpack("=i", struct.pack("=I", value & 0xFFFFFFFF))[0]
        return milliseconds * 10**6 if milliseconds >= 0 else None
    if not value:
        return None
    try:
        seconds, rest = _TIMESPEC.unpack(syscalls.read_memory(tid, value, _TIMESPEC.size))
    except OSError:
        return None  # the program has unmapped it meanwhile; the call will say so
    return int(seconds) * 10**9 + int(rest)


def _guess(registers: Registers, channel: bytes) -> int:
    """The call behind restart_syscall(2), by where the thread sleeps in the kernel and by its arguments."""
    if b"nanosleep" in channel:  # its first argument is a clock or an address
        return SYSCALL_NUMBERS["clock_nanosleep" if registers.rdi < 4096 else "nanosleep"]
    return SYSCALL_NUMBERS["futex" if b"futex" in channel else "poll"]


def _has_signal(tid: int) -> bool:
    """Whether a signal waits that is not blocked: then EINTR is its doing."""
    status = proc.status(tid)
    pending = int(status["SigPnd"], 16) | int(status["ShdPnd"], 16)
    return bool(pending & ~int(status["SigBlk"], 16) & ~(1 << (signal.SIGKILL - 1)))


# --- a call made again for what is left -----------------------------------------------------------------------------


def below_stack(registers: Registers) -> int:
    """Where a thread without an alternate stack has memory that is nobody's: below the red zone of 128 bytes."""
    return int((registers.rsp - 256) & -16)


def set_timeout(
    tid: int, registers: Registers, number: int, remaining_ns: int, scratch_address: int
) -> None:
    """Change the timeout argument in `registers`; a struct timespec goes to `scratch_address` of the thread.

    The register is the program's no more: calls are wrapped in functions, and it is one that functions may change.
    Where the memory is not writable the timeout stays whole.
    """
    register, form = _TIMEOUTS[number]
    if form == _MILLISECONDS_NAME:
        setattr(registers, register, -(-remaining_ns // 10**6))
        return
    data = _TIMESPEC.pack(*divmod(remaining_ns, 10**9))
    try:
        syscalls.write_memory(tid, scratch_address, data)
    except OSError:
        return
    setattr(registers, register, scratch_address)
