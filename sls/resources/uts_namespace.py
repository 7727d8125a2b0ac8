"""UTS namespaces (uts_namespaces(7)): a host and domain name of its own, of a process or of single threads.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it.

Not kept: nothing.
Kernel: Linux 3.8.
"""

import socket
from typing import Final

from sls import syscalls
from sls.freeze import FrozenThread
from sls.remote import Out, Remote, call
from sls.resources.base import CapturedProcess, RestoreContext
from sls.resources.own_namespace import ThreadNamespace, ThreadNamespaceRecord

_FIELD_BYTES: Final = 65
_NODE, _DOMAIN, _FIELDS = 1, 5, 6  # of struct new_utsname


class UtsNamespaceRecord(ThreadNamespaceRecord, frozen=True, tag="uts-namespace"):
    """Both names."""

    host: bytes = b""
    domain: bytes = b""


class UtsNamespace(ThreadNamespace[UtsNamespaceRecord]):
    """Names of the machine."""

    name, flag = "uts", 0x04000000
    record = UtsNamespaceRecord

    def capture_own(
        self, process: CapturedProcess, thread: FrozenThread, link: bytes
    ) -> Remote[UtsNamespaceRecord]:
        (reply,) = yield [call("uname", Out(_FIELDS * _FIELD_BYTES))]
        reply.check()
        return UtsNamespaceRecord(
            link=link,
            host=_field(reply.outputs[0], _NODE),
            domain=_field(reply.outputs[0], _DOMAIN),
        )

    def settle(self, ctx: RestoreContext, record: UtsNamespaceRecord) -> None:
        socket.sethostname(record.host.decode())
        syscalls.syscall_on("setdomainname", record.domain, len(record.domain))


def _field(data: bytes, number: int) -> bytes:
    return data[number * _FIELD_BYTES : (number + 1) * _FIELD_BYTES].rstrip(b"\0")
