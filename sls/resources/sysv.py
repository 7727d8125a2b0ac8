"""What System V objects have in common (sysvipc(7)): ids, keys, owners, and whose they are.

Not a resource of its own: shared memory, semaphores and message queues each are. No process holds a semaphore set or
a queue, so the kernel cannot tell to whom one belongs. It is the partition's when a member was the last to use it, or
waits for it. When nobody has used it yet, and a member's user and group made it since that member began, it may be: it
is never touched if it is there, and made again if it is gone, which is told: a program whose object is missing fails,
one too many harms nobody. One whose last user has ended is left to the machine. In an IPC namespace of its members'
own everything is the partition's.
"""

import enum
import errno
import math
import os
from collections.abc import Callable, Collection
from functools import partial
from itertools import product
from typing import Final, TypeVar

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.resources.base import CaptureContext, CapturedProcess, Record, RestoreContext
from sls.resources.stand_in import Identity, run_as
from sls.stay import NEW_IPC, seen_from

IPC_CREAT: Final = 0o1000
IPC_EXCL: Final = 0o2000
IPC_NOWAIT: Final = 0o4000
IPC_RMID: Final = 0
IPC_SET: Final = 1
_PERMISSION_BITS: Final = 0o777
T = TypeVar("T")
# name in /proc/sys/kernel → (words for people, option of ipcrm(1), its control call)
_KINDS: Final = {
    "shm": ("shared memory", "-m", "shmctl"),
    "sem": ("semaphores", "-s", "semctl"),
    "msg": ("message queue", "-q", "msgctl"),
}


_INFO: Final = {"shm": (14, 0), "sem": (19, 28), "msg": (12, 0)}  # command, where the count is
_INFO_BYTES: Final = 64


class SysvObject(Record, frozen=True):
    """What names one, and whose it is. A private one has key 0; so has a destroyed segment.

    `is_certain`: it is known to be the partition's.
    """

    identifier: int
    key: int
    mode: int
    uid: int
    gid: int
    creator_uid: int
    creator_gid: int
    is_certain: bool = True


class _Ownership(enum.Enum):
    """Whose an object is, as far as can be told."""

    MEMBER = enum.auto()
    PERHAPS = enum.auto()
    OTHER = enum.auto()


def described_if_ours(
    ctx: CaptureContext,
    found: "proc.SysvSemaphores | proc.SysvQueue",
    users: Collection[int],
    waiting: Collection[int],
) -> SysvObject | None:
    """What names an object that is the partition's or may be; None when it is another's.

    In an IPC namespace of its own everything is the partition's.
    `users`: pids of those who used it last, 0 for nobody; `waiting`: numbers of calls in which a task waits for it.
    """
    if ctx.ipc:
        return describe(found)
    whose = _ownership(ctx, found, users)
    if found.identifier in _waited_for(ctx, waiting):
        whose = _Ownership.MEMBER
    return (
        None
        if whose is _Ownership.OTHER
        else describe(found, is_certain=whose is _Ownership.MEMBER)
    )


def describe(
    found: "proc.SysvSemaphores | proc.SysvQueue", *, is_certain: bool = True
) -> SysvObject:
    """The common part of a line of /proc/sysvipc."""
    return SysvObject(
        identifier=found.identifier,
        key=found.key,
        mode=found.mode & _PERMISSION_BITS,
        uid=found.uid,
        gid=found.gid,
        creator_uid=found.creator_uid,
        creator_gid=found.creator_gid,
        is_certain=is_certain,
    )


def lines_of(
    ctx: CaptureContext, process: CapturedProcess, kind: str, look: Callable[[], list[T]]
) -> list[T]:
    """The kernel's table of all objects of a kind. With any in it there is more to ask while the tasks stand still."""
    found = partial(_lines, kind, look)
    inside = partial(seen_from, NEW_IPC, process.tid, found) if process.ipc else found
    lines = ctx.once(("sysv", kind), lambda: process.looks.meanwhile(("sysv", kind), inside))
    process.memo.put(f"no sysv {kind}", b"", not lines)
    if lines:
        process.looks.must_be_at_rest(f"sysv {kind}")
    return lines


def _lines(kind: str, look: Callable[[], list[T]]) -> list[T]:
    """As a rule there are none, which is told at once."""
    return look() if _count(kind) else []


def _count(kind: str) -> int:
    """How many objects of a kind there are: SHM_INFO of shmctl(2), SEM_INFO of semctl(2), MSG_INFO of msgctl(2)."""
    _, _, control = _KINDS[kind]
    room = bytearray(_INFO_BYTES)
    command, offset = _INFO[kind]
    syscalls.syscall_on(control, 0, *([0] if kind == "sem" else []), command, room)
    return int.from_bytes(room[offset : offset + 4], "little")


def tell_of_users(ctx: CaptureContext, process: CapturedProcess, kind: str) -> None:
    """Who made or used an object last is noted with a stand-in, which is in no pid namespace below ours."""
    for one in ctx.processes.values():
        if one.ipc == process.ipc and proc.numbers_below(one.status).process:
            ctx.lose(one.pid, _KINDS[kind][0], "its users' numbers show as 0 in the pid namespace")
            return


def had_none(process: CapturedProcess, kind: str) -> bool:
    """Whether there were no objects of a kind at the last capture: then the table is all there is to look at."""
    return process.memo.of(f"no sysv {kind}", b"", lambda: False)


def _ownership(
    ctx: CaptureContext, found: "proc.SysvSemaphores | proc.SysvQueue", users: Collection[int]
) -> _Ownership:
    if any(user in ctx.processes for user in users):
        return _Ownership.MEMBER
    if any(users):
        return _Ownership.OTHER
    began = ctx.once("first of each user", lambda: _first_beginnings(ctx))
    creator = found.creator_uid, found.creator_gid
    is_possible = began.get(creator, math.inf) <= found.changed_s
    return _Ownership.PERHAPS if is_possible else _Ownership.OTHER


def _waited_for(ctx: CaptureContext, calls: Collection[int]) -> set[int]:
    """First arguments of those calls that members sleep in."""
    return {
        thread.registers.rdi
        for process in ctx.processes.values()
        for thread in process.frozen.threads.values()
        if thread.registers.orig_rax in calls
    }


def is_used_by_living(users: Collection[int]) -> bool:
    """Whether one of those pids is a process at this moment, other than this one, which restores."""
    return any(user not in (0, os.getpid()) and proc.exists(user) for user in users)


def _first_beginnings(ctx: CaptureContext) -> dict[tuple[int, int], float]:
    """User and group, each of any kind → when the first process of theirs started, in seconds since the epoch."""
    found: dict[tuple[int, int], float] = {}
    for process in ctx.processes.values():
        users, groups = ({*map(int, process.status[name].split())} for name in ("Uid", "Gid"))
        for pair in product(users, groups):
            found[pair] = min(_began_s(process), found.get(pair, math.inf))
    return found


def _began_s(process: CapturedProcess) -> int:
    """When it started, in seconds since the epoch, rounded down."""
    ticks = process.stat.start_time_ticks
    return int(proc.boot_time_s() + ticks // os.sysconf("SC_CLK_TCK"))


def create(
    ctx: RestoreContext, kind: str, wanted: SysvObject, make: Callable[[], object], pid: int = 0
) -> None:
    """Run `make`, which makes the object as its creator would, so that it gets its old id; removed if we fail.

    /proc/sys/kernel/<kind>_next_id (proc_sys_kernel(5)) chooses the id. RestoreConflictError when the key or the id is
    taken. `pid`: the creator's, where the kernel remembers it.
    """
    words, option, _ = _KINDS[kind]
    before = identifiers(kind)
    try:
        with open(f"/proc/sys/kernel/{kind}_next_id", "w", encoding="ascii") as file:
            file.write(str(wanted.identifier))
        run_as(Identity(pid=pid, uid=wanted.creator_uid, gid=wanted.creator_gid), make)
    except OSError as error:
        code = error.errno or errno.EEXIST
        raise RestoreConflictError(
            f"System V {words} with key {wanted.key:#x} cannot be made: {os.strerror(code)}; "
            f"remove the one in its place (ipcrm {option.upper()}) and restore again",
            code,
        ) from error
    made = identifiers(kind) - before
    if wanted.identifier not in made:
        if len(made) == 1:
            remove(kind, made.pop())
        raise RestoreConflictError(
            f"System V {words} cannot have the id {wanted.identifier} here; remove some (ipcrm {option}) and "
            "restore again"
        )
    ctx.on_failure(lambda: remove(kind, wanted.identifier))
    if not wanted.is_certain:
        ctx.note(
            f"System V {words}",
            f"{wanted.identifier} is made again; nobody had used it, so it may have been another program's",
        )


def identifiers(kind: str) -> set[int]:
    """Ids of all objects of a kind."""
    if kind == "shm":
        return {one.identifier for one in proc.sysv_segments()}
    if kind == "sem":
        return {one.identifier for one in proc.sysv_semaphores()}
    return {one.identifier for one in proc.sysv_queues()}


def other_in_place(kind: str, identifier: int) -> RestoreConflictError:
    """The error for an id that belongs to an object of another key or size now."""
    words, option, _ = _KINDS[kind]
    return RestoreConflictError(
        f"System V {words} {identifier} is another one now; remove it (ipcrm {option}) and restore again"
    )


def remove(kind: str, identifier: int) -> None:
    """IPC_RMID."""
    control = _KINDS[kind][2]
    arguments = (identifier, 0, IPC_RMID) if kind == "sem" else (identifier, IPC_RMID, 0)
    syscalls.syscall(control, *arguments)
