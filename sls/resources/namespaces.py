"""Namespaces (namespaces(7)): those of the restorer come back; a process with its own is refused by name.

Each for a reason of its own (`_REASONS`). Mount, UTS, IPC, time and network namespaces are kept, each in a module of
its own.

Not kept: a namespace of its own of any other kind, refused.
Kernel: Linux 3.8.
"""

import os
from collections.abc import Iterable
from functools import lru_cache, partial
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

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[NamespacesRecord]:
        yield from ()
        own = _own_links(os.getpid()) | {"mnt": process.settled_link("ns/mnt")}
        for tid in process.frozen.threads:
            names = (*_REASONS, "time") if tid == process.tid else _OF_THREADS
            links = process.looks.at_leisure(("namespaces", tid), partial(_links, tid, names))
            _compare(process, own, links)
        return NamespacesRecord()

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: NamespacesRecord
    ) -> Remote[None]:
        yield from ()


_OF_THREADS: Final = ("mnt",)  # what a thread may leave alone
_LATER: Final = "its children to come would be in it; let the one that unshared it end"
_REASONS: Final = {
    "mnt": "its other threads are in another one, which is not supported",
    "user": "its ids and rights mean something else outside; run it without",
    "pid": "its process numbers are others than those seen here; checkpoint it from within",
    "cgroup": "its view of control groups cannot be made again; run it without",
    "pid_for_children": _LATER,
    "time_for_children": _LATER,
}


@lru_cache(maxsize=1)
def _own_links(pid: int) -> dict[str, bytes]:
    """Of this process, which never leaves its own."""
    return _links(pid, (*_REASONS, "time"))


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
    """`own`: of the restorer, but for kinds of which a process may have its own."""
    expected = own | {"time_for_children": theirs.get("time", own["time"])}
    for name, link in theirs.items():
        if link != expected[name] and name in _REASONS:
            raise process.unsupported(
                "namespaces", f"a {name} namespace of its own: {_REASONS[name]}"
            )
