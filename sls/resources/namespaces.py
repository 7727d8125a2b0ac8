"""Namespaces (namespaces(7)): those of the restorer come back; a process with its own is refused by name."""

import os

from sls import proc
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
        for name in proc.NAMESPACES:
            if proc.link(process.tid, f"ns/{name}") != proc.link(os.getpid(), f"ns/{name}"):
                raise process.unsupported(
                    "namespaces", f"a {name} namespace of its own is not supported"
                )
        return NamespacesRecord()

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: NamespacesRecord
    ) -> Remote[None]:
        yield from ()
