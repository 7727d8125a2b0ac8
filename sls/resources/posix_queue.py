"""POSIX message queues (mq_overview(7)): name, sizes, owner, messages with their priorities in order.

The kernel shows no message without taking it out. So, while every member stands still, a process of its own takes all
of them and puts them back; it goes on when the tracer is killed. That needs a queue that nobody else has open and
nobody waits to be notified of; else one with messages is refused, as is a member's notification, whose value
(mq_notify(3)) cannot be read back. Queues that no member has open are files of the machine; those of an IPC namespace
of its own come back with that (`ipc_namespace`).

Not kept: a member's notification, and messages of a queue that others use too: refused.
Kernel: Linux 2.6.6.
"""

import errno
import os
import signal
import stat
import struct
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from functools import partial
from typing import Final, NamedTuple

import msgspec

from sls import mounts, proc, syscalls
from sls.child import run_apart
from sls.errors import RestoreConflictError
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.resources.shown_namespace import namespace_shown

_STATUS_BYTES: Final = 80  # FILENT_SIZE of ipc/mqueue.c
_ATTRIBUTES = struct.Struct("=8q")  # struct mq_attr
_REMOVED: Final = b" (deleted)"
_LARGE_FILE: Final = 0o100000  # mq_open(3) does not set it, open(2) of /dev/mqueue does
_NAME_TRIES: Final = 100


class PosixMessage(Record, frozen=True):
    """One message."""

    priority: int
    data: bytes


class PosixQueue(Record, frozen=True):
    """One queue. `number` tells equal ones; `messages` in the order in which they would be received.

    `ipc`: the link of the IPC namespace that it is of; empty for the restorer's.
    """

    number: int
    name: bytes
    is_removed: bool
    mode: int
    uid: int
    gid: int
    most_messages: int
    message_bytes: int
    messages: tuple[PosixMessage, ...]
    ipc: bytes = b""


class PosixQueueRecord(FileRecord, frozen=True, tag="posix-queue"):
    """One open file description of a queue."""

    queue: PosixQueue


class PosixQueueFile(FileType[PosixQueueRecord]):
    """Message queues."""

    record = PosixQueueRecord

    def matches(self, file: OpenFile) -> bool:
        return (
            file.target.startswith(b"/")
            and stat.S_ISREG(file.stat.st_mode)
            and file.stat.st_size == _STATUS_BYTES
            and not file.flags & os.O_PATH
            and syscalls.filesystem_type(file.descriptor) == syscalls.MQUEUE_MAGIC
        )

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PosixQueueRecord:
        identity = ("posix queue", file.stat.st_dev, file.stat.st_ino)
        queue = ctx.once(identity, lambda: _opened(ctx, file))
        return PosixQueueRecord(file_id=file.file_id, flags=file.flags, queue=queue)

    def restore(self, ctx: RestoreContext, record: PosixQueueRecord) -> int:
        made = make(ctx, record.queue)
        flags = record.flags & (os.O_ACCMODE | os.O_NONBLOCK)
        if record.flags & _LARGE_FILE:
            return os.open(f"/proc/self/fd/{made.fd}", flags | os.O_CLOEXEC)
        # mq_open(3) closes on exec in any case; O_CLOEXEC itself would stay in the file's flags
        with ctx.in_ipc(record.queue.ipc), ctx.as_owner():
            return syscalls.syscall_on("mq_open", made.name + b"\0", flags, 0, 0)

    def settle(self, ctx: RestoreContext, record: PosixQueueRecord, fd: int) -> Iterator[None]:
        """A removed one loses its name once all have opened it."""
        if record.queue.is_removed:
            name = make(ctx, record.queue).name
            with ctx.in_ipc(record.queue.ipc):
                ctx.once(("posix queue removed", name), lambda: _remove(name))
        yield from ()


# --- capture --------------------------------------------------------------------------------------------------------


def directory_here() -> int:
    """A descriptor of the directory of the queues of the IPC namespace that we are in (Linux 5.2)."""
    mount = mounts.fresh(b"mqueue", b"none", ())
    try:
        return os.open(".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=mount)
    finally:
        os.close(mount)


def _ipc(ctx: CaptureContext, file: OpenFile) -> bytes:
    """The link of the IPC namespace that a queue is of; empty for ours."""
    found = namespace_shown(ctx, b"mqueue", file.stat.st_dev)
    if found is None:
        raise file.unsupported("a message queue of an ipc namespace that no member is in")
    return found


def _opened(ctx: CaptureContext, file: OpenFile) -> PosixQueue:
    fd = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        queue = described(ctx, fd, file.target, file.unsupported)
    finally:
        os.close(fd)
    return msgspec.structs.replace(queue, number=file.file_id, ipc=_ipc(ctx, file))


def described(
    ctx: CaptureContext, fd: int, target: bytes, refusal: Callable[[str], Exception]
) -> PosixQueue:
    """The queue behind a descriptor of ours; who has it open sees `target`. Its number is that of its inode."""
    status = os.fstat(fd)
    name = os.path.basename(target)
    _, most, size, waiting, *_ = _attributes(fd)
    notified = _notified(fd)
    if notified in ctx.processes:
        raise refusal(
            f"message queue /{name.decode(errors='replace')}: a notification (mq_notify(3)) cannot be read back"
        )
    if waiting and (notified or _is_open_outside(target, status, ctx.processes)):
        raise refusal(
            f"message queue /{name.decode(errors='replace')} has {waiting} messages, and others outside use it; "
            "let them be received, or attach all who use it"
        )
    return PosixQueue(
        number=status.st_ino,
        name=name.removesuffix(_REMOVED),
        is_removed=not status.st_nlink,
        mode=stat.S_IMODE(status.st_mode),
        uid=status.st_uid,
        gid=status.st_gid,
        most_messages=most,
        message_bytes=size,
        messages=_taken_and_put_back(fd, size) if waiting else (),
    )


def _attributes(fd: int) -> tuple[int, ...]:
    """mq_getattr(3): flags, most messages, bytes of one, messages that wait."""
    buffer = bytearray(_ATTRIBUTES.size)
    syscalls.syscall_on("mq_getsetattr", fd, 0, buffer)
    return _ATTRIBUTES.unpack(buffer)


def _notified(fd: int) -> int:
    """Who is to be told of a message, 0 for nobody."""
    text = os.pread(fd, 2 * _STATUS_BYTES, 0)
    return int(text.rpartition(b"NOTIFY_PID:")[2])


def _taken_and_put_back(fd: int, size: int) -> tuple[PosixMessage, ...]:
    place = os.memfd_create("sls-messages", os.MFD_CLOEXEC)

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        messages = _receive_all(fd, size)
        for message in messages:
            _send(fd, message)
        os.write(place, msgspec.msgpack.encode(messages))

    try:
        run_apart(work)
        data = os.pread(place, os.fstat(place).st_size, 0)
        return tuple(msgspec.msgpack.decode(data, type=list[PosixMessage]))
    finally:
        os.close(place)


def _receive_all(fd: int, size: int) -> list[PosixMessage]:
    room, priority = bytearray(size), bytearray(4)
    found: list[PosixMessage] = []
    while True:
        try:
            length = syscalls.syscall_on("mq_timedreceive", fd, room, size, priority, 0)
        except BlockingIOError:
            return found
        found.append(
            PosixMessage(priority=int.from_bytes(priority, "little"), data=bytes(room[:length]))
        )


def _send(fd: int, message: PosixMessage) -> None:
    data = message.data or b"\0"  # an empty one needs an address as well
    syscalls.syscall_on("mq_timedsend", fd, data, len(message.data), message.priority, 0)


# --- restore --------------------------------------------------------------------------------------------------------


class _Made(NamedTuple):
    fd: int
    name: bytes


def make(ctx: RestoreContext, queue: PosixQueue) -> _Made:
    """See to it that a queue is there; the same each time."""
    with ctx.in_ipc(queue.ipc):
        return ctx.once(("posix queue", queue.name, queue.number), lambda: _make(ctx, queue))


def _make(ctx: RestoreContext, queue: PosixQueue) -> _Made:
    """The queue with its messages: a new one, or the one of that name, if it is as it was."""
    names = [queue.name]
    if queue.is_removed:
        names += [b"%s.%d" % (queue.name[:200], number) for number in range(_NAME_TRIES)]
    for name in names:
        try:
            fd = ctx.opened(_create(ctx, queue, name))
        except FileExistsError:
            continue
        ctx.on_failure(partial(_remove, name))
        for message in queue.messages:
            _send(fd, message)
        return _Made(fd, name)
    return _Made(_reuse(ctx, queue), queue.name)


def _create(ctx: RestoreContext, queue: PosixQueue, name: bytes) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NONBLOCK
    attributes = _ATTRIBUTES.pack(0, queue.most_messages, queue.message_bytes, 0, 0, 0, 0, 0)
    try:
        with ctx.as_owner():
            fd = syscalls.syscall_on("mq_open", name + b"\0", flags, 0o600, attributes)
    except FileExistsError:
        raise
    except OSError as error:
        raise RestoreConflictError(
            f"message queue /{name.decode(errors='replace')} cannot be made: {os.strerror(error.errno or errno.EIO)}; "
            "see to /proc/sys/fs/mqueue and restore again",
            error.errno or errno.EIO,
        ) from error
    os.fchown(fd, queue.uid, queue.gid)
    os.fchmod(fd, queue.mode)
    return fd


def _reuse(ctx: RestoreContext, queue: PosixQueue) -> int:
    """The queue of that name, which outlived its users: its messages become the old ones, unless it is in use."""
    words = f"message queue /{queue.name.decode(errors='replace')}"
    flags = os.O_RDWR | os.O_NONBLOCK
    with ctx.as_owner():
        fd = ctx.opened(syscalls.syscall_on("mq_open", queue.name + b"\0", flags, 0, 0))
    _, most, size, *_ = _attributes(fd)
    if (most, size) != (queue.most_messages, queue.message_bytes):
        raise RestoreConflictError(f"{words} is another one now; remove it and restore again")
    target = proc.link(os.getpid(), f"fd/{fd}")
    if _notified(fd) or _is_open_outside(target, os.fstat(fd), ()):
        ctx.note("message queue", f"{words} is in use by others: its messages stay")
        return fd
    _receive_all(fd, size)
    for message in queue.messages:
        _send(fd, message)
    return fd


def _is_open_outside(target: bytes, status: os.stat_result, inside: Collection[int]) -> bool:
    """Whether a process that is not `inside` has a queue open; this one's descriptors do not count."""
    for pid in set(proc.pids()) - {os.getpid(), *inside}:
        other = proc.find_descriptor(pid, target)
        if other is not None:
            with suppress(OSError):
                if os.path.samestat(os.stat(f"/proc/{pid}/fd/{other}"), status):
                    return True
    return False


def _remove(name: bytes) -> None:
    syscalls.syscall_on("mq_unlink", name + b"\0")
