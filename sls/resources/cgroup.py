"""Membership in control groups, cgroups(7): by path in each hierarchy. A group that is gone is told of.

The groups themselves and their limits are the machine's, not the program's.

Not kept: the groups and their limits, which are the machine's.
Kernel: Linux 2.6.24.
"""

import os

from sls import proc
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


class CgroupPath(Record, frozen=True):
    """Where a process is in the hierarchy of `controllers`, which is empty for version 2."""

    controllers: bytes
    path: bytes


class CgroupRecord(ProcessRecord, frozen=True, tag="cgroup"):
    """One path a hierarchy."""

    paths: tuple[CgroupPath, ...]


class Cgroup(ProcessState[CgroupRecord]):
    """Groups of the process; its threads are taken to be in the same."""

    stage = Stage.TASKS
    record = CgroupRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[CgroupRecord]:
        yield from ()
        return _groups(process.settled("cgroup"))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: CgroupRecord
    ) -> Remote[None]:
        yield from ()
        current = _groups(proc.read(process.pid, "cgroup")).paths
        for wanted in record.paths:
            if wanted not in current and not _join(ctx, process.pid, wanted):
                name = wanted.path.decode(errors="replace")
                ctx.note("cgroup", f"{name} cannot be joined here", process.pid)


def _groups(text: bytes) -> CgroupRecord:
    return CgroupRecord(
        paths=tuple(
            CgroupPath(controllers=controllers, path=path)
            for controllers, path in proc.parse_cgroup(text)
        )
    )


def _join(ctx: RestoreContext, pid: int, wanted: CgroupPath) -> bool:
    hierarchies = ctx.once("cgroup hierarchies", proc.cgroup_mounts)
    mount = hierarchies.get(wanted.controllers)
    if mount is None:
        return False
    try:
        with open(os.path.join(mount, wanted.path.lstrip(b"/"), b"cgroup.procs"), "wb") as file:
            file.write(b"%d" % pid)
    except OSError:
        return False
    return True
