"""UTS namespaces (uts_namespaces(7)): a host and domain name of its own, of a process or of single threads.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it.

Not kept: nothing.
Kernel: Linux 3.8.
"""

import os
import socket
from functools import partial
from typing import Final

from sls import proc, syscalls
from sls.freeze import FrozenThread
from sls.remote import Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)
from sls.resources.stand_in import run_apart

_CLONE_NEWUTS: Final = 0x04000000
_FIELD_BYTES: Final = 65
_NODE, _DOMAIN, _FIELDS = 1, 5, 6  # of struct new_utsname


class UtsNamespaceRecord(ThreadRecord, frozen=True, tag="uts-namespace"):
    """`link`: the namespace's own, which tells equal ones; empty for the restorer's."""

    link: bytes = b""
    host: bytes = b""
    domain: bytes = b""


_RESTORERS: Final = UtsNamespaceRecord()


class UtsNamespace(ThreadState[UtsNamespaceRecord]):
    """Names of the machine."""

    stage = Stage.TASKS
    record = UtsNamespaceRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[UtsNamespaceRecord]:
        look = partial(proc.link, thread.tid, "ns/uts")
        link = process.looks.at_leisure(("uts namespace", thread.tid), look)
        if link == ctx.once("own uts namespace", lambda: proc.link(os.getpid(), "ns/uts")):
            return _RESTORERS
        (reply,) = yield [call("uname", Out(_FIELDS * _FIELD_BYTES))]
        reply.check()
        return UtsNamespaceRecord(
            link=link,
            host=_field(reply.outputs[0], _NODE),
            domain=_field(reply.outputs[0], _DOMAIN),
        )

    def prepare(self, ctx: RestoreContext, record: UtsNamespaceRecord) -> None:
        if record.link:
            ctx.once(("uts namespace", record.link), partial(_make, ctx, record))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: UtsNamespaceRecord
    ) -> Remote[None]:
        if record.link:
            fd: int = ctx.once(("uts namespace", record.link), partial(_make, ctx, record))
            yield from remote_all([call("setns", fd, _CLONE_NEWUTS)])


def _field(data: bytes, number: int) -> bytes:
    return data[number * _FIELD_BYTES : (number + 1) * _FIELD_BYTES].rstrip(b"\0")


def _make(ctx: RestoreContext, record: UtsNamespaceRecord) -> int:
    """A descriptor of a new namespace that the processes inherit. Its maker is a child that shares our descriptors."""
    place = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def work() -> None:
        syscalls.syscall("unshare", _CLONE_NEWUTS)
        socket.sethostname(record.host.decode())
        syscalls.syscall_on("setdomainname", record.domain, len(record.domain))
        made = os.open("/proc/self/ns/uts", os.O_RDONLY)
        os.dup2(made, place, inheritable=False)
        os.close(made)

    try:
        run_apart(work)
        return ctx.inheritable(place)
    finally:
        os.close(place)
