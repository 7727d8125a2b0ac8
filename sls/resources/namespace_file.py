"""Descriptors of namespaces (namespaces(7), /proc/<pid>/ns): of the restorer's, or of one that a member is in.

Not kept: one of a namespace that no member is in, refused.
Kernel: Linux 3.8.
"""

import os
import re
from collections.abc import Iterator
from typing import Final

from sls import proc
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext

_TARGET: Final = re.compile(rb"(cgroup|ipc|mnt|net|pid|time|user|uts):\[\d+\]")
_USER: Final = "user"


class NamespaceFileRecord(FileRecord, frozen=True, tag="namespace-file"):
    """`kind`: its name in /proc/<pid>/ns; `link`: what tells it. `tid`: a task that is in it; 0: it is ours."""

    kind: str
    link: bytes
    tid: int = 0


class NamespaceFile(FileType[NamespaceFileRecord]):
    """Namespaces as files."""

    record = NamespaceFileRecord
    is_late = True

    def matches(self, file: OpenFile) -> bool:
        return _TARGET.fullmatch(file.target) is not None

    def capture(self, ctx: CaptureContext, file: OpenFile) -> NamespaceFileRecord:
        kind = file.target.partition(b":")[0].decode()
        tid = 0
        if file.target != proc.link(os.getpid(), f"ns/{kind}"):
            tid = next(_tasks_in(ctx, kind, file.target), 0)
            if not tid:
                name = file.target.decode()
                raise file.unsupported(
                    f"{name}: a namespace that no member is in cannot be made again; close it before the checkpoint"
                )
        return NamespaceFileRecord(
            file_id=file.file_id, flags=file.flags, kind=kind, link=file.target, tid=tid
        )

    def restore(self, ctx: RestoreContext, record: NamespaceFileRecord) -> int:
        path = f"/proc/{record.tid or 'self'}/ns/{record.kind}"
        if record.tid and record.kind == _USER:  # which its members enter last
            path = f"/proc/self/fd/{ctx.user_namespaces[record.link]}"
        return os.open(path, record.flags & os.O_PATH | os.O_CLOEXEC)


def _tasks_in(ctx: CaptureContext, kind: str, link: bytes) -> Iterator[int]:
    for process in ctx.processes.values():
        for tid in process.frozen.threads:
            if proc.link(tid, f"ns/{kind}") == link:
                yield tid
