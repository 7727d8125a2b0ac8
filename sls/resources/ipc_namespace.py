"""IPC namespaces (ipc_namespaces(7)), with their limits and the objects in them; of a process or of single threads.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it. What is in
it comes back with it: the modules of System V objects and of message queues go there, and queues that nobody has open
stand in the record here.

Not kept: System V objects where no main thread is, unattached ones with shm_rmid_forced: refused; the next ids.
Kernel: Linux 3.8; with objects 5.2 (fsmount(2) of mqueue).
"""

import os
import stat
from collections.abc import Iterator, Set
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec

from sls.child import run_apart
from sls.freeze import FrozenThread
from sls.remote import Remote
from sls.resources.base import CaptureContext, CapturedProcess, RestoreContext
from sls.resources.own_namespace import ThreadNamespace, ThreadNamespaceRecord
from sls.resources.posix_queue import PosixQueue, described, directory_here, make
from sls.stay import NEW_IPC, seen_from, stay_with

_OBJECTS: Final = {"shm": "shared memory", "sem": "semaphores", "msg": "message queues"}
_SYSCTL: Final = "/proc/sys"
_DESTROYS_ORPHANS: Final = "kernel/shm_rmid_forced"
# as high as may be, while objects are made: some may be from before a limit was lowered
_ROOM: Final = {
    "kernel/shmmax": b"18446744073692774399",
    "kernel/shmall": b"18446744073692774399",
    "kernel/shmmni": b"32768",
    "kernel/msgmax": b"2147483647",
    "kernel/msgmnb": b"2147483647",
    "kernel/msgmni": b"32768",
    "kernel/sem": b"65536 2147483647 500 32768",
    "fs/mqueue/queues_max": b"2147483647",
    "fs/mqueue/msg_max": b"65536",
    "fs/mqueue/msgsize_max": b"16777216",
}
_LIMITS: Final = (
    *_ROOM,
    _DESTROYS_ORPHANS,
    *(f"fs/mqueue/{name}" for name in ("msg_default", "msgsize_default")),
)


class IpcNamespaceRecord(ThreadNamespaceRecord, frozen=True, tag="ipc-namespace"):
    """`limits`: files of /proc/sys; `queues`: POSIX message queues that no member has open, in one of the records."""

    limits: tuple[tuple[str, bytes], ...] = ()
    queues: tuple[PosixQueue, ...] = ()


class IpcNamespace(ThreadNamespace[IpcNamespaceRecord]):
    """Where System V objects and message queues are looked for."""

    name, flag = "ipc", NEW_IPC
    record = IpcNamespaceRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not process.memo.of("unopened queues", b"", lambda: False)

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[IpcNamespaceRecord]:
        record = yield from super().capture(ctx, process, thread)
        link = record.link
        if not link:
            return record
        key = ("inside", link)
        inside: _Inside = process.looks.of(key, partial(seen_from, NEW_IPC, thread.tid, _look))
        unopened = inside.queues - _opened(ctx, inside.device)
        process.memo.put("unopened queues", b"", bool(unopened))
        _refuse_unseen(ctx, process, link, inside)
        if not ctx.is_first_sight(key):
            return record
        queues = _described(ctx, process, thread.tid, unopened)
        return msgspec.structs.replace(
            record, queues=tuple(msgspec.structs.replace(one, ipc=link) for one in queues)
        )

    def capture_own(
        self, process: CapturedProcess, thread: FrozenThread, link: bytes
    ) -> Remote[IpcNamespaceRecord]:
        yield from ()
        look = partial(seen_from, NEW_IPC, thread.tid, _limits)
        limits = process.looks.at_leisure(("limits", link), look)
        return IpcNamespaceRecord(link=link, limits=limits)

    def prepare(self, ctx: RestoreContext, record: IpcNamespaceRecord) -> None:
        if not record.link:
            return
        if record.link not in ctx.ipc_namespaces:
            ctx.ipc_namespaces[record.link] = self.made(ctx, record)
            ctx.at_last(partial(_limit, ctx, record))
        for queue in record.queues:
            make(ctx, queue)

    def settle(self, ctx: RestoreContext, record: IpcNamespaceRecord) -> None:
        for name, limit in _ROOM.items():
            with suppress(OSError):  # who needs it will tell
                _write(name, limit)


# --- capture --------------------------------------------------------------------------------------------------------


class _Inside(NamedTuple):
    """`objects`: kinds of System V, in words; `queues`: number and name of the named; `device`: of all queues."""

    objects: list[str]
    queues: frozenset[tuple[int, bytes]]
    device: int


def _look() -> _Inside:
    """In the namespace."""
    objects = [words for name, words in _OBJECTS.items() if _lines(f"/proc/sysvipc/{name}") > 1]
    directory = directory_here()
    try:
        with os.scandir(directory) as entries:
            queues = frozenset((one.inode(), os.fsencode(one.name)) for one in entries)
        device = os.fstat(directory).st_dev
    finally:
        os.close(directory)
    return _Inside(objects, queues, device)


def _opened(ctx: CaptureContext, device: int) -> set[tuple[int, bytes]]:
    """Queues that members have open, by number and name."""
    return {
        (file.stat.st_ino, os.path.basename(file.target))
        for file in ctx.files.values()
        if stat.S_ISREG(file.stat.st_mode) and file.stat.st_dev == device
    }


def _refuse_unseen(
    ctx: CaptureContext, process: CapturedProcess, link: bytes, inside: _Inside
) -> None:
    """System V objects are captured with processes: with those whose main thread is in the namespace."""
    if inside.objects and all(
        link != one.ipc or one.tid != one.pid for one in ctx.processes.values()
    ):
        raise process.unsupported(
            "namespaces",
            f"an ipc namespace of its own with {' and '.join(inside.objects)} in it that no main thread is in "
            "cannot be made again; remove them",
        )


def _described(
    ctx: CaptureContext, process: CapturedProcess, tid: int, queues: Set[tuple[int, bytes]]
) -> Iterator[PosixQueue]:
    if not queues:
        return
    process.looks.must_be_at_rest("message queues that nobody has open")
    with stay_with(NEW_IPC, tid):
        directory = directory_here()
    try:
        for _, name in sorted(queues):
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
            fd = os.open(name, flags, dir_fd=directory)
            try:
                yield described(ctx, fd, b"/" + name, partial(process.unsupported, "namespaces"))
            finally:
                os.close(fd)
    finally:
        os.close(directory)


def _limits() -> tuple[tuple[str, bytes], ...]:
    return tuple((name, limit) for name in _LIMITS if (limit := _read(name)) is not None)


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.readlines())


def _read(name: str) -> bytes | None:
    try:
        with open(f"{_SYSCTL}/{name}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None  # a kernel without it


# --- restore --------------------------------------------------------------------------------------------------------


def _limit(ctx: RestoreContext, record: IpcNamespaceRecord) -> None:
    """Set the limits, once all that is in the namespace is made and attached."""

    def work() -> None:
        with ctx.in_ipc(record.link):
            for name, limit in record.limits:
                if _read(name) != limit:
                    _write(name, limit)

    run_apart(work)


def _write(name: str, value: bytes) -> None:
    """In a child, in the namespace. Where that is of a user namespace, the files are of who is root in there."""
    path = f"{_SYSCTL}/{name}"
    user = os.geteuid()
    os.seteuid(os.stat(path).st_uid)
    try:
        with open(path, "wb", buffering=0) as file:
            file.write(value)
    finally:
        os.seteuid(user)
