"""Namespaces (namespaces(7)): those of the restorer come back; a process with its own is refused by name."""

import os
from collections.abc import Iterable
from typing import Final

from sls import proc
from sls.errors import TaskDiedError
from sls.remote import Remote
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    RestoreContext,
    RestoredProcess,
    Stage,
)


class NamespacesRecord(ProcessRecord, frozen=True, tag="namespaces"):
    """Nothing of their own."""


class Namespaces(ProcessState[NamespacesRecord]):
    """Refuses what has its own."""

    stage = Stage.TASKS
    record = NamespacesRecord

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[NamespacesRecord]:
        yield from ()
        own = _links(os.getpid(), proc.NAMESPACES)
        _compare(process, own, _links(process.tid, proc.NAMESPACES))
        for tid in process.frozen.threads:
            if tid != process.tid:
                _compare(process, own, _links(tid, _OF_THREADS))
        return NamespacesRecord()

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: NamespacesRecord
    ) -> Remote[None]:
        yield from ()


_OF_THREADS: Final = ("mnt", "net", "ipc", "uts")  # those that a thread may leave alone


def _links(tid: int, names: Iterable[str]) -> dict[str, bytes]:
    return {name: _link(tid, name) for name in names}


def _link(tid: int, name: str) -> bytes:
    try:
        return proc.link(tid, f"ns/{name}")
    except TaskDiedError:
        if name != "pid_for_children" or not proc.exists(tid):
            raise
        return b""  # one that no process is in yet


def _compare(process: CapturedProcess, own: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    for name, link in theirs.items():
        if link != own[name]:
            raise process.unsupported(
                "namespaces", f"a {name} namespace of its own is not supported"
            )
