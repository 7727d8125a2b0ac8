"""What tasks share that cannot be kept shared: refused by name before anything is done inside them.

clone(2) lets processes share an address space, a descriptor table or directories, and threads unshare them; kcmp(2)
tells. It also orders kernel objects, so that sorting finds equal ones without comparing each pair. Changes nothing.
"""

from collections.abc import Iterable
from functools import cmp_to_key, partial
from itertools import pairwise
from typing import Final

from sls import syscalls
from sls.errors import TaskDiedError, UnsupportedResourceError
from sls.freeze import FrozenProcess
from sls.resources import CapturedProcess

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
    """UnsupportedResourceError when two processes share what cannot be kept shared."""
    tids = {process.leader.tid: process for process in processes}
    if len(tids) < 2:
        return
    for kind, (resource, what) in _KINDS.items():
        if pair := _equal_pair(tids, kind):
            pids = sorted(tids[tid].pid for tid in pair)
            detail = f"it shares {what} with pid {pids[0]}, which is not supported"
            raise UnsupportedResourceError(pids[1], resource, detail)


def is_shared(pids: Iterable[int]) -> bool:
    """Whether two of these processes, which may run, share what is refused; also when one of them ends meanwhile."""
    try:
        return any(_equal_pair(pids, kind) for kind in _KINDS)
    except (TaskDiedError, OSError):
        return True


def _equal_pair(tids: Iterable[int], kind: int) -> tuple[int, int] | None:
    ordered = sorted(tids, key=cmp_to_key(partial(_order, kind)))
    return next((two for two in pairwise(ordered) if not syscalls.kcmp(*two, kind)), None)


def refuse_unshared(process: CapturedProcess) -> None:
    """UnsupportedResourceError when a thread has what all of its process should share."""
    leader = process.tid
    for tid in process.frozen.threads:
        for kind in (syscalls.KCMP_FILES, syscalls.KCMP_FS) if tid != leader else ():
            compare = partial(syscalls.kcmp, leader, tid, kind)
            if process.looks.at_leisure(("shares", leader, tid, kind), compare):
                resource, _ = _KINDS[kind]
                detail = f"thread {tid} has its own (unshare(2)), which is not supported"
                raise process.unsupported(resource, detail)


def refuse_foreign(process: CapturedProcess) -> None:
    """UnsupportedResourceError for a program that cannot make our calls: a 32-bit one, one that gets them as signals.

    Nor one with a filter that would kill it for them, unless that can be suspended.
    """
    threads = process.frozen.threads
    if any(thread.registers.cs == _CODE_32_BIT for thread in threads.values()):
        raise process.unsupported("registers", "a 32-bit program is not supported")
    for tid in threads:
        if syscalls.dispatches_calls(tid):
            detail = "syscall user dispatch (prctl(2)) is not supported"
            raise process.unsupported(f"thread {tid}", detail)
        if process.status_of(tid)["Seccomp"] != "0" and not _is_filter_suspended(tid):
            detail = "its filter cannot be suspended; root's rights are needed"
            raise process.unsupported("seccomp", detail)


def _is_filter_suspended(tid: int) -> bool:
    """Whether the thread's filters sleep from now on, until it is let go."""
    try:
        syscalls.suspend_seccomp(tid)
    except OSError:  # we have not the right to, or are filtered ourselves
        return False
    return True
