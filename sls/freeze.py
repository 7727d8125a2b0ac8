"""Stop every thread of a set of processes at one instant; let them go again.

Threads are SEIZEd and interrupted; whatever is born meanwhile is born stopped (PTRACE_O_TRACE…) and joins the set; the
rounds end when none is new. Detaching resumes: if this process dies, the kernel detaches and the tasks go on.
Single-threaded: ptrace belongs to one thread.
"""

import errno
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from sls import proc, syscalls
from sls.errors import FreezeError, TaskDiedError
from sls.syscalls import Registers


@dataclass(eq=False)
class FrozenThread:
    """A thread in a ptrace stop."""

    pid: int
    tid: int
    registers: Registers
    sigmask: int
    is_group_stopped: bool = False


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


def _traced(pid: int, tracer: str) -> FreezeError:
    return FreezeError(pid, f"is traced by pid {tracer}; end that debugger first", errno.EBUSY)


class Frozen:
    """The stopped set. Use as a context manager: leaving lets every task go, also after an error."""

    def __init__(self, members: Callable[[], Iterable[int]]) -> None:
        self._members = members
        self.processes: dict[int, FrozenProcess] = {}
        self._tids: dict[int, int] = {}

    def __enter__(self) -> "Frozen":
        try:
            while self._freeze_new():
                pass
        except TimeoutError as error:
            self.thaw()
            raise FreezeError(
                min(self._tids, default=0), f"cannot be stopped: {error}", errno.EAGAIN
            ) from error
        except BaseException:
            self.thaw()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()

    def _freeze_new(self) -> bool:
        new = self._seize_new()
        for pid, tid in new:
            self._settle(pid, tid)
        return bool(new)

    def _seize_new(self) -> list[tuple[int, int]]:
        new = []
        for pid in self._members():
            for tid in self._threads(pid):
                if tid not in self._tids and self._seize(pid, tid):
                    new.append((pid, tid))
        return new

    def _threads(self, pid: int) -> list[int]:
        try:
            return proc.entries(pid, "task")
        except TaskDiedError:
            if pid in self.processes:
                raise
            raise FreezeError(pid, "does not exist any more; detach it", errno.ESRCH) from None

    def _seize(self, pid: int, tid: int) -> bool:
        try:
            syscalls.seize(tid)
            self._tids[tid] = pid
            syscalls.interrupt(tid)
        except TaskDiedError:
            return False
        except PermissionError as error:
            return self._explain_refusal(pid, tid, error)
        return True

    @staticmethod
    def _explain_refusal(pid: int, tid: int, error: PermissionError) -> bool:
        try:
            status = proc.status(pid, tid)
        except TaskDiedError:
            return False
        if status["State"][0] in "ZX":
            return False  # a dead leader with live threads, or a thread on its way out
        if status["TracerPid"] != "0":
            raise _traced(pid, status["TracerPid"]) from error
        raise FreezeError(pid, "may not be traced; root's rights are needed") from error

    def _settle(self, pid: int, tid: int) -> None:
        """Wait until `tid` stands in the stop that was asked for; deliver what comes before it."""
        try:
            while True:
                stop = syscalls.wait_stop(tid)
                if stop.event == syscalls.PTRACE_EVENT_STOP:
                    break
                if stop.event in syscalls.BIRTH_EVENTS:
                    self._adopt(syscalls.event_message(tid))
                syscalls.resume(tid, 0 if stop.event else stop.signal)
            thread = FrozenThread(
                pid=pid,
                tid=tid,
                registers=syscalls.get_registers(tid),
                sigmask=syscalls.get_sigmask(tid),
                is_group_stopped=stop.signal != signal.SIGTRAP,
            )
        except TaskDiedError:
            self._tids.pop(tid, None)
            return
        process = self.processes.setdefault(pid, FrozenProcess(pid))
        process.threads[tid] = thread

    def _adopt(self, tid: int) -> None:
        """Take in a task that was born traced and stopped."""
        if tid in self._tids:
            return
        try:
            pid = int(proc.status(tid)["Tgid"])
        except TaskDiedError:
            return
        self._tids[tid] = pid
        self._settle(pid, tid)

    def thaw(self) -> None:
        """Let every task go on. Never fails: a task that ended meanwhile needs no letting go."""
        for tid in self._tids:
            try:
                _let_go(tid)
            except (TaskDiedError, TimeoutError):
                continue
        self._tids.clear()


def _let_go(tid: int) -> None:
    """Detach; a task that was interrupted but not yet seen to stop is waited for first."""
    try:
        syscalls.detach(tid)
    except TaskDiedError:
        stop = syscalls.wait_stop(tid)
        syscalls.detach(tid, 0 if stop.event else stop.signal)
