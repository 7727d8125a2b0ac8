"""Who gets a signal when a file becomes ready: F_SETOWN, F_SETSIG and O_ASYNC of fcntl(2).

They belong to the open file description; its first holder sets them, because the kernel notes the descriptor's number
for the signal's si_fd. A lease (`file_lock`) tells its owner by the same means.

Not kept: dnotify (F_NOTIFY of fcntl(2)), of which nothing tells.
Kernel: Linux 2.6.32.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

from sls.remote import Call, In, Out, Remote, call
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

_F_SETSIG, _F_GETSIG, _F_SETOWN_EX, _F_GETOWN_EX = 10, 11, 15, 16
_OWNER = struct.Struct("=ii")  # struct f_owner_ex: type, pid
_O_ASYNC: Final = os.O_ASYNC


class FileOwner(Record, frozen=True):
    """`kind`: F_OWNER_TID, F_OWNER_PID or F_OWNER_PGRP; `owner` 0 is none; `flags`: as F_GETFL shows them."""

    fd: int
    kind: int
    owner: int
    signal: int
    flags: int


class FileOwnersRecord(ProcessRecord, frozen=True, tag="file-owners"):
    """Settings of descriptions that this process is the first to hold."""

    owners: tuple[FileOwner, ...] = ()


class FileOwners(ProcessState[FileOwnersRecord]):
    """Signals by files."""

    stage = Stage.LINKS
    record = FileOwnersRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[FileOwnersRecord]:
        fds = list(_candidates(ctx, process))
        calls = [call("fcntl", fd, _F_GETOWN_EX, Out(_OWNER.size)) for fd in fds]
        calls += [call("fcntl", fd, _F_GETSIG) for fd in fds]
        replies = yield calls
        owners = []
        for fd, owner_reply, signal_reply in zip(
            fds, replies[: len(fds)], replies[len(fds) :], strict=True
        ):
            kind, owner = _OWNER.unpack(owner_reply.outputs[0])
            signal = signal_reply.check()
            flags = process.infos[fd].flags & ~os.O_CLOEXEC
            if owner or signal or flags & _O_ASYNC:
                owners.append(FileOwner(fd=fd, kind=kind, owner=owner, signal=signal, flags=flags))
        return FileOwnersRecord(owners=tuple(owners))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: FileOwnersRecord
    ) -> Remote[None]:
        replies = yield [one for owner in record.owners for one in _set(owner)]
        for reply in replies:
            if reply.failed:
                ctx.note("file owner", f"fcntl: {os.strerror(-reply.value)}", process.pid)


def _candidates(ctx: CaptureContext, process: CapturedProcess) -> Iterator[int]:
    """Descriptors whose settings may be other than none; plain files never signal but by a lease."""
    for fd, info in process.infos.items():
        file_id = ctx.descriptors[process.pid, fd]
        target = ctx.files[file_id].target
        is_plain = target.startswith(b"/") and not target.startswith(b"/dev/")
        can_signal = not is_plain or info.flags & _O_ASYNC or info.lines("lock:")
        if (
            can_signal
            and not info.flags & os.O_PATH
            and ctx.is_first_sight(("file owner", file_id))
        ):
            yield fd


def _set(one: FileOwner) -> Iterator[Call]:
    if one.owner:
        yield call("fcntl", one.fd, _F_SETOWN_EX, In(_OWNER.pack(one.kind, one.owner)))
    if one.signal:
        yield call("fcntl", one.fd, _F_SETSIG, one.signal)
    if one.flags & _O_ASYNC:
        yield call("fcntl", one.fd, fcntl.F_SETFL, one.flags)
