"""What tasks share that cannot be kept shared: refused by name before anything is done inside them.

clone(2) lets processes share an address space, a descriptor table or directories, and threads unshare them; kcmp(2)
tells. It also orders kernel objects, so that sorting finds equal ones without comparing each pair. Changes nothing.
"""

from collections.abc import Iterable
from functools import cmp_to_key, partial
from itertools import pairwise
from typing import Final

from sls import proc, syscalls
from sls.errors import TaskDiedError, UnsupportedResourceError
from sls.freeze import FrozenProcess

_KINDS: Final = {
    syscalls.KCMP_VM: ("memory", "its address space (CLONE_VM)"),
    syscalls.KCMP_FILES: ("descriptors", "its descriptor table (CLONE_FILES)"),
    syscalls.KCMP_FS: ("directories", "its root, cwd and umask (CLONE_FS)"),
}
_CODE_32_BIT: Final = 0x23  # code segment of a program in compatibility mode


def _order(kind: int, left: int, right: int) -> int:
    found = syscalls.kcmp(left, right, kind)
    return {syscalls.KCMP_EQUAL: 0, syscalls.KCMP_LESS: -1}.get(found, 1)


def refuse_shared(processes: Iterable[FrozenProcess]) -> None:
    """UnsupportedResourceError when two processes share what cannot be kept shared, or a thread has its own."""
    tids = {process.leader.tid: process for process in processes}
    for kind, (resource, what) in _KINDS.items():
        if pair := _equal_pair(tids, kind):
            pids = sorted(tids[tid].pid for tid in pair)
            detail = f"it shares {what} with pid {pids[0]}, which is not supported"
            raise UnsupportedResourceError(pids[1], resource, detail)
    for process in tids.values():
        _refuse_unshared(process)


def is_shared(pids: Iterable[int]) -> bool:
    """Whether two of these processes, which may run, share what is refused; also when one of them ends meanwhile."""
    try:
        return any(_equal_pair(pids, kind) for kind in _KINDS)
    except (TaskDiedError, OSError):
        return True


def _equal_pair(tids: Iterable[int], kind: int) -> tuple[int, int] | None:
    ordered = sorted(tids, key=cmp_to_key(partial(_order, kind)))
    return next((two for two in pairwise(ordered) if not syscalls.kcmp(*two, kind)), None)


def _refuse_unshared(process: FrozenProcess) -> None:
    leader = process.leader.tid
    for tid in process.threads:
        for kind in (syscalls.KCMP_FILES, syscalls.KCMP_FS):
            if tid != leader and syscalls.kcmp(leader, tid, kind):
                resource, _ = _KINDS[kind]
                detail = f"thread {tid} has its own (unshare(2)), which is not supported"
                raise UnsupportedResourceError(process.pid, resource, detail)


def refuse_foreign(process: FrozenProcess) -> None:
    """UnsupportedResourceError for a program that cannot make our calls: a 32-bit one, one that a filter would kill.

    Nor one that gets its calls as signals.
    """
    if any(thread.registers.cs == _CODE_32_BIT for thread in process.threads.values()):
        raise UnsupportedResourceError(
            process.pid, "registers", "a 32-bit program is not supported"
        )
    for tid, thread in process.threads.items():
        if syscalls.dispatches_calls(tid):
            raise UnsupportedResourceError(
                process.pid, f"thread {tid}", "syscall user dispatch (prctl(2)) is not supported"
            )
        if (
            not thread.is_seccomp_suspended
            and proc.status(process.leader.tid, tid)["Seccomp"] != "0"
        ):
            raise UnsupportedResourceError(
                process.pid, "seccomp", "its filter cannot be suspended; root's rights are needed"
            )
