"""System V semaphores (semget(2), semop(2)): sets with ids, keys, owners, values and last users, and what is undone.

What a process's end undoes (SEM_UNDO) is shown nowhere. It is found by operations that fail in any case: an array
whose last operation would block changes nothing, and its errno tells on the way whether an adjustment would leave its
range (ipc/sem.c checks the semaphores in order). Threads share it; a process that never asked for it has none, which
kcmp(2) tells.

Not kept: the time of the last operation; an ended last user; undoing in a set that others change at that moment.
Kernel: Linux 3.9 (sem_next_id), 3.5 (kcmp).
"""

import errno
import os
import struct
from collections.abc import Collection, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import Final

from msgspec.structs import replace

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.remote import Call, In, Remote, Reply, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.resources.stand_in import Identity, run_as
from sls.resources.sysv import (
    IPC_CREAT,
    IPC_EXCL,
    IPC_NOWAIT,
    IPC_SET,
    SysvObject,
    create,
    describe,
    described_if_ours,
    had_none,
    is_used_by_living,
    lines_of,
    other_in_place,
)
from sls.syscalls import SYSCALL_NUMBERS

_GETPID, _GETALL = 11, 13
_SEM_UNDO: Final = 0o10000
_HIGHEST: Final = 32767  # SEMVMX, and SEMAEM for adjustments
_OPERATIONS: Final = 250  # in one call; SEMOPM is 500, and some of ours take two
_PROBES: Final = 16  # calls of one round of the search
_CANNOT_BE_ITS: Final = frozenset([errno.EACCES, errno.EINVAL, errno.EIDRM])
_SEMBUF = struct.Struct("=HhH")
_SEMID_DS_BYTES: Final = 104  # struct semid64_ds of x86-64
_WAITING: Final = frozenset(SYSCALL_NUMBERS[name] for name in ("semop", "semtimedop"))

Operation = tuple[int, int, int]  # number, change, flags


class SemaphoreSet(Record, frozen=True):
    """One set: the value of each semaphore, and the pid that changed it last."""

    object: SysvObject
    values: tuple[int, ...]
    users: tuple[int, ...]


class SysvSemaphoresRecord(ProcessRecord, frozen=True, tag="sysv-semaphores"):
    """Sets of the partition; each stands in the record of the first process.

    `ipc`: the link of the IPC namespace that they are of; empty for the restorer's.
    """

    sets: tuple[SemaphoreSet, ...] = ()
    ipc: bytes = b""


class SysvSemaphores(ProcessState[SysvSemaphoresRecord]):
    """Sets."""

    stage = Stage.LINKS
    record = SysvSemaphoresRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return had_none(process, "sem")

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess
    ) -> Remote[SysvSemaphoresRecord]:
        yield from ()
        with ctx.ipc_of(process) as ipc:
            lines = _lines(ctx, process)
            is_first = ctx.is_first_sight("sysv semaphores")
            sets = _sets(ctx, lines)[0] if is_first else ()
        return SysvSemaphoresRecord(sets=sets, ipc=ipc)

    def prepare(self, ctx: RestoreContext, record: SysvSemaphoresRecord) -> None:
        with ctx.in_ipc(record.ipc):
            for found in record.sets:
                _make(ctx, found)
            if record.sets:
                ctx.once("sysv semaphores", lambda: record.sets)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SysvSemaphoresRecord
    ) -> Remote[None]:
        """The values stand; an operation without effect makes this process the last user again."""
        sets = _made_sets(ctx, record.ipc)
        calls = [
            _operate(found.object.identifier, part)
            for found in sets
            for part in _parts(_touches(found, process.pid))
        ]
        if calls:
            yield calls


class SemaphoreAdjustment(Record, frozen=True):
    """What is added to a semaphore when the process ends."""

    identifier: int
    number: int
    change: int


class SemaphoreUndoRecord(ProcessRecord, frozen=True, tag="semaphore-undo"):
    """Adjustments of one process. `sets`: those that `SysvSemaphores` would take for another program's.

    `ipc`: as in `SysvSemaphoresRecord`; an IPC namespace of its own has no other programs.
    """

    adjustments: tuple[SemaphoreAdjustment, ...] = ()
    sets: tuple[SemaphoreSet, ...] = ()
    ipc: bytes = b""


class SemaphoreUndo(ProcessState[SemaphoreUndoRecord]):
    """What semop(2) undoes."""

    stage = Stage.TASKS  # before `SysvSemaphores` settles who used which last
    record = SemaphoreUndoRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return had_none(process, "sem")

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[SemaphoreUndoRecord]:
        with ctx.ipc_of(process) as ipc:
            lines = _lines(ctx, process)
            _refuse_apart(process)
            if not lines or not _may_undo(process.tid):
                return SemaphoreUndoRecord()
            ours, others = _sets(ctx, lines)
        strangers = {one.object.identifier for one in others}
        adjustments = yield from _adjustments(process, [*ours, *others], strangers)
        undone = {one.identifier for one in adjustments}
        return SemaphoreUndoRecord(
            adjustments=tuple(adjustments),
            sets=tuple(one for one in others if one.object.identifier in undone),
            ipc=ipc,
        )

    def prepare(self, ctx: RestoreContext, record: SemaphoreUndoRecord) -> None:
        for found in record.sets:
            _make(ctx, found)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SemaphoreUndoRecord
    ) -> Remote[None]:
        if not record.adjustments:
            return
        sets = _made_sets(ctx, record.ipc)
        values = {found.object.identifier: found.values for found in (*record.sets, *sets)}
        calls = [
            _operate(one.identifier, part)
            for one in record.adjustments
            for part in _parts(_adjusting(one, values[one.identifier][one.number]))
        ]
        replies = yield calls
        if any(reply.failed for reply in replies):
            ctx.note("semaphores", "others use them: what is undone is not set", process.pid)


# --- capture --------------------------------------------------------------------------------------------------------


def _sets(
    ctx: CaptureContext, lines: Sequence[proc.SysvSemaphores]
) -> tuple[tuple[SemaphoreSet, ...], tuple[SemaphoreSet, ...]]:
    """Those of the partition, and all others."""

    def make() -> tuple[tuple[SemaphoreSet, ...], tuple[SemaphoreSet, ...]]:
        ours: list[SemaphoreSet] = []
        others: list[SemaphoreSet] = []
        for line in lines:
            try:
                one = _described(line)
            except OSError:
                continue  # a stranger's that has gone meanwhile
            common = described_if_ours(ctx, line, set(one.users) - {0}, _WAITING)
            if common is None:
                others.append(one)
            else:
                ours.append(replace(one, object=common))
        return tuple(ours), tuple(others)

    return ctx.once("sysv semaphore sets", make)


def _values(found: SemaphoreSet) -> tuple[int, ...]:
    """The values now; none when the set has gone."""
    values = bytearray(2 * len(found.values))
    try:
        syscalls.syscall_on("semctl", found.object.identifier, 0, _GETALL, values)
    except OSError:
        return ()
    return struct.unpack(f"={len(found.values)}H", values)


def _lines(ctx: CaptureContext, process: CapturedProcess) -> list[proc.SysvSemaphores]:
    return lines_of(ctx, process, "sem", proc.sysv_semaphores)


def _described(line: proc.SysvSemaphores) -> SemaphoreSet:
    values = bytearray(2 * line.semaphores)
    syscalls.syscall_on("semctl", line.identifier, 0, _GETALL, values)
    users = (
        syscalls.syscall("semctl", line.identifier, n, _GETPID, 0) for n in range(line.semaphores)
    )
    return SemaphoreSet(
        object=describe(line),
        values=struct.unpack(f"={line.semaphores}H", values),
        users=tuple(users),
    )


def _may_undo(tid: int) -> bool:
    """Whether it has a list of adjustments: all that have none are equal to this process, which has none."""
    return bool(syscalls.kcmp(tid, os.getpid(), syscalls.KCMP_SYSVSEM))


def _refuse_apart(process: CapturedProcess) -> None:
    """Who enters another IPC namespace has a list of adjustments of its own from then on."""
    for tid in process.frozen.threads:
        if process.ipc_of(tid) != process.ipc and process.looks.of(
            ("may undo", tid), partial(_may_undo, tid)
        ):
            raise process.unsupported(
                "semaphores",
                f"thread {tid} has operations to undo (SEM_UNDO) in an ipc namespace that its process is not in",
            )


def _adjustments(
    process: CapturedProcess, sets: Sequence[SemaphoreSet], strangers: Collection[int]
) -> Remote[list[SemaphoreAdjustment]]:
    """Those that are not zero; one batch tells for all semaphores whether theirs is. `strangers`: others' sets."""
    places = [(found, number) for found in sets for number in range(len(found.values))]
    replies = yield [_probe(found, number, limit) for found, number in places for limit in (0, 1)]
    adjustments = []
    for (found, number), (zero, one) in zip(
        places, zip(replies[::2], replies[1::2], strict=True), strict=True
    ):
        if _CANNOT_BE_ITS & {-zero.value, -one.value}:
            continue  # it may not change it, or the set has gone
        is_busy = found.object.identifier in strangers and _values(found) != found.values
        if is_busy:
            continue  # somebody outside works with it at this moment: nothing can be told
        low, high = -_HIGHEST - 1, _HIGHEST
        low, high = _narrowed(process, found, (0, 1), (zero, one), (low, high))
        if (low, high) != (0, 0):
            change = yield from _find_change(process, found, number, low, high)
            adjustments.append(
                SemaphoreAdjustment(
                    identifier=found.object.identifier, number=number, change=change
                )
            )
    return adjustments


def _find_change(
    process: CapturedProcess, found: SemaphoreSet, number: int, low: int, high: int
) -> Remote[int]:
    """The adjustment of one semaphore, which lies in [low, high], in rounds of a few calls."""
    while low < high:
        step = -(-(high - low) // _PROBES)
        limits = range(low + step, high + 1, step)
        replies = yield [_probe(found, number, one) for one in limits]
        low, high = _narrowed(process, found, limits, replies, (low, high))
    return low


def _narrowed(
    process: CapturedProcess,
    found: SemaphoreSet,
    limits: Sequence[int],
    replies: Sequence[Reply],
    bounds: tuple[int, int],
) -> tuple[int, int]:
    """Closer bounds of an adjustment, by what probes of it answered."""
    low, high = bounds
    for limit, reply in zip(limits, replies, strict=True):
        if reply.value == -errno.EAGAIN:
            low = max(low, limit)
        elif reply.value == -errno.ERANGE:
            high = min(high, limit - 1)
        else:
            low = high + 1
    if low > high:
        raise process.unsupported(
            "semaphores",
            f"what is undone in set {found.object.identifier} cannot be found out: others use it; try again",
        )
    return low, high


def _probe(found: SemaphoreSet, number: int, limit: int) -> Call:
    """A call that fails: with EAGAIN when the adjustment is at least `limit`, else with ERANGE.

    An operation of +n with SEM_UNDO lowers the adjustment by n, which may not fall below -32768.
    """
    value = found.values[number]
    operations = [(number, -value, 0)] if value else []
    rest = limit + _HIGHEST + 1
    while rest > 0:
        part = min(rest, _HIGHEST)
        operations += [(number, part, _SEM_UNDO), (number, -part, 0)]
        rest -= part
    return _operate(found.object.identifier, [*operations, (number, -_HIGHEST - 1, 0)])


def _operate(identifier: int, operations: Sequence[Operation]) -> Call:
    """semop(2) that never waits."""
    return call("semop", identifier, In(_packed(operations)), len(operations))


def _packed(operations: Iterable[Operation]) -> bytes:
    return b"".join(
        _SEMBUF.pack(number, change, flags | IPC_NOWAIT) for number, change, flags in operations
    )


# --- restore --------------------------------------------------------------------------------------------------------


def _made_sets(ctx: RestoreContext, ipc: bytes) -> tuple[SemaphoreSet, ...]:
    """What `SysvSemaphores` has made in that namespace."""
    with ctx.in_ipc(ipc):
        sets: tuple[SemaphoreSet, ...] = ctx.once("sysv semaphores", tuple)
    return sets


def _make(ctx: RestoreContext, wanted: SemaphoreSet) -> None:
    """See to it that the set is there with its values. One in use by others keeps theirs."""
    common = wanted.object
    identifier, count = common.identifier, len(wanted.values)
    there = next((one for one in proc.sysv_semaphores() if one.identifier == identifier), None)
    if there is None:
        flags = common.mode | IPC_CREAT | IPC_EXCL
        try:
            create(
                ctx, "sem", common, partial(syscalls.syscall, "semget", common.key, count, flags)
            )
        except RestoreConflictError as error:
            if common.is_certain:
                raise
            ctx.note("semaphores", f"{error}; it may be another program's")
            return
        _set_owner(common)
    elif not common.is_certain:
        return
    elif (there.key, there.semaphores, there.creator_uid) != (
        common.key,
        count,
        common.creator_uid,
    ):
        raise other_in_place("sem", identifier)
    elif is_used_by_living(_described(there).users):
        ctx.note("semaphores", f"set {identifier} is in use by others: its values stay")
        return
    now = next(one for one in proc.sysv_semaphores() if one.identifier == identifier)
    _set_values(wanted, _described(now))


def _set_owner(common: SysvObject) -> None:
    data = struct.pack("=iIIIII", 0, common.uid, common.gid, 0, 0, common.mode)
    padded = data.ljust(_SEMID_DS_BYTES, b"\0")
    syscalls.syscall_on("semctl", common.identifier, 0, IPC_SET, padded)


def _set_values(wanted: SemaphoreSet, now: SemaphoreSet) -> None:
    """Change what differs, each semaphore by who changed it last: semctl(2) would note our pid with all of them."""
    identifier, users = wanted.object.identifier, wanted.users
    differing = [
        number
        for number in range(len(users))
        if (wanted.values[number], users[number]) != (now.values[number], now.users[number])
    ]
    for user, mine in groupby(sorted(differing, key=users.__getitem__), key=users.__getitem__):
        operations = [one for n in mine for one in _changing(n, now.values[n], wanted.values[n])]
        for part in _parts(operations):
            work = partial(syscalls.syscall_on, "semop", identifier, _packed(part), len(part))
            run_as(Identity(pid=user, uid=os.geteuid(), gid=os.getegid()), work)


def _changing(number: int, now: int, wanted: int) -> list[Operation]:
    """Two operations: the second one alone would not be noted where nothing changes."""
    if now < _HIGHEST:
        return (
            [(number, 1, 0), (number, wanted - now - 1, 0)]
            if wanted != now + 1
            else [(number, 1, 0)]
        )
    return (
        [(number, -1, 0), (number, wanted - now + 1, 0)] if wanted != now - 1 else [(number, -1, 0)]
    )


def _adjusting(one: SemaphoreAdjustment, value: int) -> list[Operation]:
    """Operations that change the adjustment and not the value; of each pair only one counts for it."""
    room, number = _HIGHEST - value, one.number
    is_up_first = room >= value
    chunk = max(room, value)
    operations: list[Operation] = []
    rest = abs(one.change)
    while rest:
        part = min(rest, chunk)
        pair = [part, -part] if is_up_first else [-part, part]
        # an operation of -n is undone by +n
        operations += [
            (number, change, _SEM_UNDO if (change < 0) == (one.change > 0) else 0)
            for change in pair
        ]
        rest -= part
    return operations


def _touches(found: SemaphoreSet, pid: int) -> list[Operation]:
    operations: list[Operation] = []
    for number, (value, user) in enumerate(zip(found.values, found.users, strict=True)):
        if user == pid:
            change = -1 if value else 1
            operations += [(number, change, 0), (number, -change, 0)]
    return operations


def _parts(operations: Sequence[Operation]) -> Iterator[Sequence[Operation]]:
    for start in range(0, len(operations), 2 * (_OPERATIONS // 2)):
        yield operations[start : start + 2 * (_OPERATIONS // 2)]
