"""What the kept namespaces have in common (namespaces(7)): whose one is, how it is looked into, how one is made anew.

Not a resource of its own: `uts_namespace`, `ipc_namespace`, `time_namespace` are. Looking and making happen in children
that share this process's descriptors, so the tracer itself never leaves its own namespaces.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import Final, TypeVar

from sls import proc, syscalls
from sls.resources.base import CaptureContext, CapturedProcess, RestoreContext
from sls.resources.stand_in import run_apart, told_by_child

NEW_TIME, NEW_UTS, NEW_IPC = 0x80, 0x04000000, 0x08000000
_FOR_CHILDREN: Final = {NEW_TIME: "time_for_children"}

T = TypeVar("T")


def own_link(ctx: CaptureContext, process: CapturedProcess, tid: int, name: str) -> bytes:
    """The link that tells equal namespaces of that kind; empty when the thread is in the restorer's."""
    key = (f"{name} namespace", tid)
    link = process.looks.at_leisure(key, partial(proc.link, tid, f"ns/{name}"))
    ours = ctx.once(("own namespace", name), lambda: proc.link(os.getpid(), f"ns/{name}"))
    return b"" if link == ours else link


def look_inside(tid: int, name: str, flag: int, look: Callable[[], T], kind: type[T]) -> T:
    """What `look` finds in the namespace that a thread is in."""
    fd = os.open(f"/proc/{tid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)

    def enter_and_look() -> T:
        syscalls.syscall("setns", fd, flag)
        return look()

    try:
        return told_by_child(enter_and_look, kind)
    finally:
        os.close(fd)


def namespace_like(
    ctx: RestoreContext, link: bytes, name: str, flag: int, settle: Callable[[], None]
) -> int:
    """A descriptor of a new namespace that the processes inherit, one for each `link`; `settle` runs inside."""
    return ctx.once((f"{name} namespace", link), lambda: _make(ctx, name, flag, settle))


def _make(ctx: RestoreContext, name: str, flag: int, settle: Callable[[], None]) -> int:
    place = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)

    def work() -> None:
        syscalls.syscall("unshare", flag)
        settle()
        made = os.open(f"/proc/self/ns/{_FOR_CHILDREN.get(flag, name)}", os.O_RDONLY)
        os.dup2(made, place, inheritable=False)
        os.close(made)

    try:
        run_apart(work)
        return ctx.inheritable(place)
    finally:
        os.close(place)
