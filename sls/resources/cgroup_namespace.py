"""Control group namespaces (cgroup_namespaces(7)): the groups that are seen as the root, one a hierarchy.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it, by somebody
who is in those groups at that moment.

Not kept: a process that is outside of what its own shows, refused; a root that is gone, told.
Kernel: Linux 4.6.
"""

import os
from functools import partial
from typing import Final

from sls import proc
from sls.freeze import FrozenThread
from sls.remote import Remote
from sls.resources.base import CapturedProcess, RestoreContext
from sls.resources.cgroup import CgroupPath, groups_of, join_group
from sls.resources.own_namespace import ThreadNamespace, ThreadNamespaceRecord

_ROOT: Final = b"/"


class CgroupNamespaceRecord(ThreadNamespaceRecord, frozen=True, tag="cgroup-namespace"):
    """`roots`: what each hierarchy shows as its root, by the restorer's paths."""

    roots: tuple[CgroupPath, ...] = ()


class CgroupNamespace(ThreadNamespace[CgroupNamespaceRecord]):
    """Which control groups are there."""

    name, flag = "cgroup", 0x02000000
    record = CgroupNamespaceRecord

    def capture_own(
        self, process: CapturedProcess, thread: FrozenThread, link: bytes
    ) -> Remote[CgroupNamespaceRecord]:
        yield from ()
        tid = thread.tid
        look = partial(self.look_inside, tid, partial(proc.read, tid, "cgroup"), bytes)
        inside = groups_of(process.looks.at_leisure(("groups inside", tid), look))
        outside = process.looks.at_leisure(("groups", tid), partial(proc.read, tid, "cgroup"))
        seen = {one.controllers: one.path for one in inside}
        return CgroupNamespaceRecord(
            link=link,
            roots=tuple(
                CgroupPath(
                    controllers=one.controllers,
                    path=_root(process, one.path, seen[one.controllers]),
                )
                for one in groups_of(outside)
            ),
        )

    def precede(self, ctx: RestoreContext, record: CgroupNamespaceRecord) -> None:
        """A new one shows as its root where its maker is."""
        for root in record.roots:
            join_group(ctx, os.getpid(), root)

    def prepare(self, ctx: RestoreContext, record: CgroupNamespaceRecord) -> None:
        super().prepare(ctx, record)
        for root in record.roots:
            ctx.once(("cgroup root", root), partial(_see, ctx, root))


def _root(process: CapturedProcess, path: bytes, inside: bytes) -> bytes:
    """What a namespace shows as /, where it shows `path` as `inside`."""
    if not path.endswith(inside.rstrip(_ROOT)):
        raise process.unsupported(
            "namespaces",
            "a cgroup namespace of its own, and it is in a group outside of that; move it back first",
        )
    return path.removesuffix(inside.rstrip(_ROOT)) or _ROOT


def _see(ctx: RestoreContext, root: CgroupPath) -> None:
    mount = ctx.once("cgroup hierarchies", proc.cgroup_mounts).get(root.controllers)
    if mount is not None and not os.path.isdir(os.path.join(mount, root.path.lstrip(_ROOT))):
        name = root.path.decode(errors="replace")
        ctx.note(
            "namespaces", f"the control group {name} is gone: a cgroup namespace shows another"
        )
