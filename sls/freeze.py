"""Stop every thread of a set of processes at one instant; let them go again.

Threads are SEIZEd and interrupted; whatever is born meanwhile is born stopped (PTRACE_O_TRACE…) and joins the set; the
rounds end when none is new. A set that cannot be stopped at the moment (vfork(2) keeps a parent asleep) goes on and is
tried again a little later. Detaching resumes: if this process dies, the kernel detaches and the tasks go on.
Single-threaded: ptrace belongs to one thread; one process-wide set of tasks that are yet to be let go.
"""

import errno
import os
import signal
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from sls import proc, syscalls
from sls.errors import FreezeError, TaskDiedError, untraceable
from sls.exec_reaper import ExecReaper, exec_reaper
from sls.sleep import Sleepers, SleepingCall
from sls.syscalls import NO_RSEQ, SYSCALL_NUMBERS, Registers, RseqConfiguration

_PATIENCE_S: Final = 3.0
_PAUSE_S: Final = 0.005
_STOP_TIMEOUT_S: Final = 0.3
_VFORK_WAIT_S: Final = 0.05
_VFORK_PAUSE_S: Final = 0.0002
_BIRTH_CALLS: Final = frozenset(SYSCALL_NUMBERS[name] for name in ("vfork", "clone", "clone3"))


@dataclass(eq=False)
class FrozenThread:
    """A thread in a ptrace stop."""

    pid: int
    tid: int
    registers: Registers
    sigmask: int
    is_group_stopped: bool = False
    rseq: RseqConfiguration = NO_RSEQ
    sleeping_call: SleepingCall | None = None


@dataclass(eq=False)
class FrozenProcess:
    """A thread group whose threads all stand still; the leader's entry comes first."""

    pid: int
    threads: dict[int, FrozenThread] = field(default_factory=dict)

    @property
    def leader(self) -> FrozenThread:
        return self.threads[min(self.threads, key=lambda tid: (tid != self.pid, tid))]


def refuse_unfit(pid: int) -> None:
    """FreezeError (ESRCH, EINVAL, EBUSY) for a pid that is not there, a kernel thread, a zombie or being traced."""
    try:
        status = proc.status(pid)
        stat = proc.stat(pid)
    except TaskDiedError as error:
        raise FreezeError(pid, "does not exist; `ps` shows which do", errno.ESRCH) from error
    if int(status["Tgid"]) != pid:
        raise FreezeError(pid, f"is a thread; attach its process, {status['Tgid']}", errno.EINVAL)
    if stat.is_kernel_thread:
        raise FreezeError(pid, "is a kernel thread; only programs can be kept", errno.EINVAL)
    if stat.is_zombie and len(proc.entries(pid, "task")) == 1:
        raise FreezeError(
            pid, "has ended (a zombie); its parent has yet to wait for it", errno.ESRCH
        )
    if status["TracerPid"] != "0":
        raise _traced(pid, status["TracerPid"])
    if not proc.is_traceable(pid):
        raise untraceable(pid)


def _traced(pid: int, tracer: str) -> FreezeError:
    return FreezeError(pid, f"is traced by pid {tracer}; end that debugger first", errno.EBUSY)


class _MovedError(Exception):
    """A task did something in the meantime (vfork, execve, an end) after which the set has to be stopped anew."""

    def __init__(self, pid: int, what: str) -> None:
        self.pid = pid
        super().__init__(what)


class Frozen:
    """The stopped set. Use as a context manager: leaving lets every task go, also after an error.

    `zombies`: members that have ended while their parent, a member as well, has yet to wait for them.
    `since_ns`: when the first one was asked to stop.
    """

    def __init__(
        self, members: Callable[[], Iterable[int]], sleepers: Sleepers | None = None
    ) -> None:
        self._members = members
        self._sleepers = sleepers or Sleepers()
        self._clear()

    def _clear(self) -> None:
        self.processes: dict[int, FrozenProcess] = {}
        self.zombies: set[int] = set()
        self.since_ns = 0
        self._tids: dict[int, int] = {}
        # theirs, and those that were born traced as the last set was let go, and have ended since
        self._met: set[int] = set()
        self._reaper: ExecReaper | None = None
        self._stopped: set[int] = set()

    def __enter__(self) -> "Frozen":
        deadline = time.monotonic() + _PATIENCE_S
        while True:
            try:
                self._freeze_all()
                return self
            except (_MovedError, TimeoutError) as error:
                culprit = min(self._tids.values(), default=0)
                if isinstance(error, _MovedError):
                    culprit = error.pid
                self.thaw()
                if time.monotonic() > deadline:
                    reason = f"cannot be stopped at the moment: {error}; try again"
                    raise FreezeError(culprit, reason, errno.EAGAIN) from error
                time.sleep(_PAUSE_S)
            except BaseException:
                self.thaw()
                raise

    def __exit__(self, *_: object) -> None:
        self.thaw()

    def _freeze_all(self) -> None:
        let_go_strays()
        self._clear()
        try:
            self._freeze_in_rounds()
        finally:
            if self._reaper is not None:
                self._reaper.rest()
        self._keep_only_children(self.zombies)
        if not self.processes:
            raise FreezeError(min(self._members(), default=0), "has ended; detach it", errno.ESRCH)

    def _freeze_in_rounds(self) -> None:
        missing: set[int] = set()
        while True:
            gone: set[int] = set()
            new = self._seize_new(gone)
            if not new:
                if lost := gone & missing:
                    raise FreezeError(min(lost), "does not exist any more; detach it", errno.ESRCH)
                if not gone:
                    break
            missing = gone
            self.since_ns = self.since_ns or time.monotonic_ns()
            for pid, tid in new:
                self._interrupt(pid, tid)
            for pid, tid in new:
                self._settle(pid, tid)

    def _keep_only_children(self, zombies: set[int]) -> None:
        for pid in list(zombies):
            try:
                if proc.stat(pid).ppid in self.processes:
                    continue
            except TaskDiedError:
                pass
            zombies.discard(pid)

    def confirm_sleep(self, thread: FrozenThread, switches: int) -> None:
        """The stopped thread has gone to sleep so many times: what is left of its call depends on that."""
        if thread.sleeping_call is not None:
            thread.sleeping_call = self._sleepers.confirm(
                thread.tid, thread.registers, thread.sleeping_call, switches
            )

    def note_run(self, tid: int, stops: int) -> None:
        """A stopped thread has run for us, to so many stops more."""
        self._sleepers.ran(tid, stops)

    # --- becoming the tracer ---

    def _seize_new(self, gone: set[int]) -> list[tuple[int, int]]:
        new = []
        for pid in self._members():
            known = self.processes.get(pid)
            try:
                if known is not None and proc.thread_count(pid, proc.reread) == len(known.threads):
                    continue  # these, for who stands still cannot end alone
                tids = proc.threads(pid)
            except TaskDiedError:
                if known is not None:
                    raise
                gone.add(pid)
                continue
            if known is not None and not known.threads.keys() <= set(tids):
                raise _MovedError(pid, "a thread of it ended")
            if len(tids) > 1 and self._reaper is None:
                self._reaper = exec_reaper()
                self._reaper.watch(self._met)
            self._met.update(tid for tid in tids if tid != pid)
            for tid in tids:
                if tid not in self._tids and self._seize(pid, tid, is_last=len(tids) == 1):
                    new.append((pid, tid))
        return new

    def _seize(self, pid: int, tid: int, *, is_last: bool) -> bool:
        deadline = time.monotonic() + _VFORK_WAIT_S
        while self._sleepers.look(tid) in _BIRTH_CALLS and _is_uninterruptible(tid):
            if time.monotonic() > deadline:
                raise _MovedError(pid, "it waits for a child that it made with vfork(2)")
            time.sleep(_VFORK_PAUSE_S)
        try:
            syscalls.seize(tid)
        except TaskDiedError:
            return False
        except PermissionError as error:
            if not _is_ours(pid, tid):  # else born so: CLONE_PTRACE with CLONE_UNTRACED, clone(2)
                if self._explain_refusal(pid, tid, error) and is_last:
                    self.zombies.add(pid)
                return False
        self._tids[tid] = pid
        self._met.add(tid)
        return True

    @staticmethod
    def _explain_refusal(pid: int, tid: int, error: PermissionError) -> bool:
        """Whether the task is a zombie: a dead leader with live threads, or the end of its process."""
        try:
            status = proc.status(pid, tid)
        except TaskDiedError:
            return False
        if status["State"][0] in "ZX":
            return status["State"][0] == "Z"
        if status["TracerPid"] != "0":
            raise _traced(pid, status["TracerPid"]) from error
        raise untraceable(pid) from error

    # --- stopping ---

    def _interrupt(self, pid: int, tid: int) -> None:
        try:
            syscalls.interrupt(tid)
        except TaskDiedError:
            self._lose(pid, tid)

    def _settle(self, pid: int, tid: int) -> None:
        """Wait until `tid` stands in the stop that was asked for; deliver what comes before it."""
        if tid not in self._tids:
            return
        try:
            while True:
                stop = syscalls.wait_stop(tid, _STOP_TIMEOUT_S)
                self._stopped.add(tid)
                if stop.event == syscalls.PTRACE_EVENT_STOP:
                    break
                if stop.event == syscalls.VFORK_EVENT:
                    # its parent stops when it has run another program, which it can only if it is let go
                    _is_let_go_once_stopped(syscalls.event_message(tid), _STOP_TIMEOUT_S)
                elif stop.event in syscalls.BIRTH_EVENTS:
                    self._adopt(syscalls.event_message(tid))
                syscalls.interrupt(tid)  # any stop takes the place of the one that was asked for
                syscalls.resume(tid, 0 if stop.event else stop.signal)
                self._stopped.discard(tid)
            registers = syscalls.get_registers(tid)
            thread = FrozenThread(
                pid=pid,
                tid=tid,
                registers=registers,
                sigmask=syscalls.get_sigmask(tid),
                is_group_stopped=stop.signal != signal.SIGTRAP,
                rseq=syscalls.rseq_configuration(tid),
            )
            if not thread.is_group_stopped:
                thread.sleeping_call = self._sleepers.settle(tid, registers)
        except TaskDiedError:
            self._lose(pid, tid)
            return
        process = self.processes.setdefault(pid, FrozenProcess(pid))
        process.threads[tid] = thread

    def _lose(self, pid: int, tid: int) -> None:
        """A thread is gone. If it was by execve(2), its number is: it goes on under that of its leader."""
        self._tids.pop(tid, None)
        self._stopped.discard(tid)
        if not _is_let_go_once_stopped(
            tid, _STOP_TIMEOUT_S
        ):  # its parent waits for it when we have
            _strays.add(tid)
        if pid in self._stopped and tid != pid:
            try:
                ended_or_moved = os.waitpid(pid, syscalls.WALL | os.WNOHANG)[0]
            except ChildProcessError:
                ended_or_moved = pid
            if ended_or_moved:
                raise _MovedError(pid, "it ended or ran another program")

    def _adopt(self, tid: int) -> None:
        """Take in a task that was born traced and stopped."""
        if tid in self._tids:
            return
        try:
            pid = int(proc.status(tid)["Tgid"])
        except TaskDiedError:
            return
        self._tids[tid] = pid
        self._met.add(tid)
        self._settle(pid, tid)

    # --- letting go ---

    def thaw(self) -> None:
        """Let every task go on. Never fails: a task that ended meanwhile needs no letting go."""
        waiting = [tid for tid in self._tids if not _is_let_go(tid)]
        for tid in waiting:
            if not _is_let_go_once_stopped(tid, _STOP_TIMEOUT_S):
                _strays.add(tid)
        self._tids.clear()
        self._stopped.clear()


_strays: set[int] = set()  # interrupted, but asleep uninterruptibly until now


def let_go_strays() -> None:
    """Detach tasks that did not stop in time when they were asked to, or were born traced, and have stopped since.

    To be called while nothing is frozen.
    """
    for tid in list(_strays):
        if _is_let_go(tid) or _is_let_go_once_stopped(tid, 0.0):
            _strays.discard(tid)
    with suppress(ChildProcessError):
        while found := syscalls.next_trapped():
            with suppress(TaskDiedError):
                syscalls.detach(*found)


def _is_let_go(tid: int) -> bool:
    try:
        syscalls.detach(tid)
    except TaskDiedError:
        return False
    return True


def _is_let_go_once_stopped(tid: int, timeout_s: float) -> bool:
    """Detach a task that may not have been asked to stop yet, or has not yet; True as well when it is gone."""
    try:
        with suppress(
            TaskDiedError
        ):  # a traced zombie is its tracer's first: it has to be waited for
            syscalls.interrupt(tid)
        stop = syscalls.wait_stop(tid, timeout_s)
        syscalls.detach(tid, 0 if stop.event else stop.signal)
    except TaskDiedError:
        return True
    except TimeoutError:
        return False
    return True


def _is_ours(pid: int, tid: int) -> bool:
    """Whether this process traces a living task."""
    try:
        status = proc.status(pid, tid)
    except TaskDiedError:
        return False
    return status["State"][0] not in "ZX" and status["TracerPid"] == str(os.getpid())


def _is_uninterruptible(tid: int) -> bool:
    try:
        return proc.stat(tid).state == "D"
    except TaskDiedError:
        return False
