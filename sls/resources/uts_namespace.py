"""UTS namespaces (uts_namespaces(7)): a host and domain name of its own, of a process or of single threads.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it.

Not kept: nothing.
Kernel: Linux 3.8.
"""

import socket
from functools import partial
from typing import Final

from sls import syscalls
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
from sls.resources.own_namespace import NEW_UTS, namespace_like, own_link

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
        link = own_link(ctx, process, thread.tid, "uts")
        if not link:
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
            _descriptor(ctx, record)

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: UtsNamespaceRecord
    ) -> Remote[None]:
        if record.link:
            yield from remote_all([call("setns", _descriptor(ctx, record), NEW_UTS)])


def _field(data: bytes, number: int) -> bytes:
    return data[number * _FIELD_BYTES : (number + 1) * _FIELD_BYTES].rstrip(b"\0")


def _descriptor(ctx: RestoreContext, record: UtsNamespaceRecord) -> int:
    return namespace_like(ctx, record.link, "uts", NEW_UTS, partial(_settle, record))


def _settle(record: UtsNamespaceRecord) -> None:
    socket.sethostname(record.host.decode())
    syscalls.syscall_on("setdomainname", record.domain, len(record.domain))
