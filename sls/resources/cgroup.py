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
        return CgroupRecord(paths=groups_of(process.settled("cgroup")))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: CgroupRecord
    ) -> Remote[None]:
        yield from ()
        current = groups_of(proc.read(process.pid, "cgroup"))
        for wanted in record.paths:
            if wanted not in current and not join_group(ctx, process.pid, wanted):
                name = wanted.path.decode(errors="replace")
                ctx.note("cgroup", f"{name} cannot be joined here", process.pid)


def groups_of(text: bytes) -> tuple[CgroupPath, ...]:
    """From /proc/<pid>/cgroup."""
    return tuple(
        CgroupPath(controllers=controllers, path=path)
        for controllers, path in proc.parse_cgroup(text)
    )


def join_group(ctx: RestoreContext, pid: int, wanted: CgroupPath) -> bool:
    """Put a process into a group; False where that is gone, or may not be joined."""
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
