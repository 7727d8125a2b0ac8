"""System V message queues (msgget(2), msgsnd(2)): ids, keys, owners, size, last users, and the messages in order.

Messages are looked at with MSG_COPY (Linux 3.8, CONFIG_CHECKPOINT_RESTORE), which takes none out; without it a queue
that holds some is refused.

Not kept: the times of the last calls.
Kernel: Linux 3.9 (MSG_COPY; CONFIG_CHECKPOINT_RESTORE).
"""

import errno
import os
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Final

from sls import proc, syscalls
from sls.errors import RestoreConflictError, UnsupportedResourceError
from sls.remote import Remote
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
    described_if_ours,
    had_none,
    is_used_by_living,
    lines_of,
    other_in_place,
    tell_of_users,
)
from sls.syscalls import SYSCALL_NUMBERS

_MSG_COPY: Final = 0o40000
_IPC_STAT: Final = 2
_TYPE = struct.Struct("=q")
_MSQID_DS_BYTES: Final = 120  # struct msqid64_ds of x86-64
_AT_LIMIT: Final = 88  # of msg_qbytes in it
_ANY_TYPE: Final = 0
_WAITING: Final = frozenset(SYSCALL_NUMBERS[name] for name in ("msgsnd", "msgrcv"))


class SysvMessage(Record, frozen=True):
    """One message; `kind` is its type, a positive number."""

    kind: int
    data: bytes


class MessageQueue(Record, frozen=True):
    """One queue, oldest message first. `limit_bytes`: msg_qbytes."""

    object: SysvObject
    limit_bytes: int
    last_sender: int
    last_receiver: int
    messages: tuple[SysvMessage, ...]


class SysvQueuesRecord(ProcessRecord, frozen=True, tag="sysv-messages"):
    """Queues of the partition; each stands in the record of the first process.

    `ipc`: the link of the IPC namespace that they are of; empty for the restorer's.
    """

    queues: tuple[MessageQueue, ...] = ()
    ipc: bytes = b""


class SysvQueues(ProcessState[SysvQueuesRecord]):
    """Queues."""

    stage = Stage.LINKS
    record = SysvQueuesRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return had_none(process, "msg")

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[SysvQueuesRecord]:
        yield from ()
        with ctx.ipc_of(process) as ipc:
            lines = lines_of(ctx, process, "msg", proc.sysv_queues)
            is_first = ctx.is_first_sight("sysv messages")
            queues = tuple(_queues(ctx, process, lines)) if is_first else ()
        if any(one.last_sender or one.last_receiver for one in queues):
            tell_of_users(ctx, process, "msg")
        return SysvQueuesRecord(queues=queues, ipc=ipc)

    def prepare(self, ctx: RestoreContext, record: SysvQueuesRecord) -> None:
        with ctx.in_ipc(record.ipc):
            for queue in record.queues:
                _make(ctx, queue)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: SysvQueuesRecord
    ) -> Remote[None]:
        yield from ()


def _queues(
    ctx: CaptureContext, process: CapturedProcess, lines: Sequence[proc.SysvQueue]
) -> Iterator[MessageQueue]:
    """Those that are the partition's or may be."""
    for line in lines:
        users = {line.last_sender, line.last_receiver} - {0}
        common = described_if_ours(ctx, line, users, _WAITING)
        if common is not None and common.is_certain:
            yield _described(process, line, common)
        elif common is not None:
            with suppress(OSError, UnsupportedResourceError):  # a stranger's that changes
                yield _described(process, line, common)


def _described(process: CapturedProcess, line: proc.SysvQueue, common: SysvObject) -> MessageQueue:
    status = bytearray(_MSQID_DS_BYTES)
    syscalls.syscall_on("msgctl", line.identifier, _IPC_STAT, status)
    room = bytearray(_TYPE.size + line.queued_bytes)
    messages = []
    for place in range(line.messages):
        try:
            length = syscalls.syscall_on(
                "msgrcv", line.identifier, room, line.queued_bytes, place, _MSG_COPY | IPC_NOWAIT
            )
        except OSError as error:
            raise process.unsupported(
                "message queue",
                f"messages of queue {line.identifier} cannot be copied: {os.strerror(error.errno or errno.EIO)}; "
                "others use it, or this kernel has no MSG_COPY: let the program receive them",
            ) from error
        data = bytes(room[_TYPE.size : _TYPE.size + length])
        messages.append(SysvMessage(kind=_TYPE.unpack_from(room)[0], data=data))
    return MessageQueue(
        object=common,
        limit_bytes=int.from_bytes(status[_AT_LIMIT : _AT_LIMIT + 8], "little"),
        last_sender=line.last_sender,
        last_receiver=line.last_receiver,
        messages=tuple(messages),
    )


# --- restore --------------------------------------------------------------------------------------------------------


def _make(ctx: RestoreContext, wanted: MessageQueue) -> None:
    """See to it that the queue is there with its messages. One in use by others keeps theirs."""
    common = wanted.object
    identifier = common.identifier
    there = next((one for one in proc.sysv_queues() if one.identifier == identifier), None)
    if there is None:
        flags = common.mode | IPC_CREAT | IPC_EXCL
        try:
            create(ctx, "msg", common, partial(syscalls.syscall, "msgget", common.key, flags))
        except RestoreConflictError as error:
            if common.is_certain:
                raise
            ctx.note("message queue", f"{error}; it may be another program's")
            return
    elif not common.is_certain:
        return
    elif (there.key, there.creator_uid) != (common.key, common.creator_uid):
        raise other_in_place("msg", identifier)
    elif is_used_by_living({there.last_sender, there.last_receiver} - {0}):
        ctx.note("message queue", f"queue {identifier} is in use by others: its messages stay")
        return
    else:
        _empty(identifier, there.queued_bytes)
    _set(common, max(wanted.limit_bytes, 1))
    if wanted.last_receiver:
        _as(wanted.last_sender, partial(_send, identifier, SysvMessage(kind=1, data=b"")))
        _as(wanted.last_receiver, partial(_empty, identifier, 0))
    if wanted.messages:
        _as(wanted.last_sender, lambda: _send_all(identifier, wanted.messages))


def _as(pid: int, work: Callable[[], None]) -> None:
    """Run `work` under a number that the kernel writes down: the last sender's, the last receiver's."""
    run_as(Identity(pid=pid, uid=os.geteuid(), gid=os.getegid()), work)


def _send_all(identifier: int, messages: Sequence[SysvMessage]) -> None:
    for message in messages:
        _send(identifier, message)


def _empty(identifier: int, room: int) -> None:
    into = bytearray(_TYPE.size + room)
    while True:
        try:
            syscalls.syscall_on("msgrcv", identifier, into, room, _ANY_TYPE, IPC_NOWAIT)
        except OSError as error:
            if error.errno != errno.ENOMSG:
                raise
            return


def _set(common: SysvObject, limit_bytes: int) -> None:
    """IPC_SET; over the limit of the machine (msgmnb) it needs CAP_SYS_RESOURCE."""
    data = struct.pack("=iIIIII", 0, common.uid, common.gid, 0, 0, common.mode)
    data = data.ljust(_AT_LIMIT, b"\0") + limit_bytes.to_bytes(8, "little")
    syscalls.syscall_on("msgctl", common.identifier, IPC_SET, data.ljust(_MSQID_DS_BYTES, b"\0"))


def _send(identifier: int, message: SysvMessage) -> None:
    data = _TYPE.pack(message.kind) + message.data
    syscalls.syscall_on("msgsnd", identifier, data, len(message.data), IPC_NOWAIT)
