"""Namespaces (namespaces(7)): those of the restorer come back; kinds that are not kept are refused by name.

All others are each kept in a module of their own. A pid namespace comes back with its first process (`sls.blank`):
whoever is in it gets its numbers there as well as here, whether he was born in it or entered it (setns(2)).

Not kept: time_for_children; a pid namespace without its pid 1, or of a user namespace in another one.
Kernel: Linux 3.8 (pid namespaces 5.5).
"""

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache, partial
from typing import Final

from sls import proc
from sls.child import told_from_inside
from sls.errors import TaskDiedError
from sls.remote import In, Out, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    RestoreContext,
    RestoredProcess,
    Stage,
)
from sls.resources.own_namespace import owner_of


class NamespacesRecord(ProcessRecord, frozen=True, tag="namespaces"):
    """Links of pid namespaces: its own, if that is not the restorer's; its children's, if that is not its own.

    `last_pid`: what was given last in the one whose first process this is; `owner`: the link of the user namespace that
    that belongs to, empty for the restorer's. `unshared_for_children`: its next child is the first of a new one.
    """

    pid: bytes = b""
    pid_for_children: bytes = b""
    last_pid: int = 0
    owner: bytes = b""
    unshared_for_children: bool = False


class Namespaces(ProcessState[NamespacesRecord]):
    """Refuses what has its own; tells who is in which pid namespace."""

    stage = Stage.TASKS
    record = NamespacesRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not proc.numbers_below(process.status).process

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[NamespacesRecord]:
        own = _own_links(os.getpid()) | {"mnt": process.settled_link("ns/mnt")}
        for tid in process.frozen.threads:
            names = (*_REASONS, "time") if tid == process.tid else _OF_THREADS
            links = process.looks.at_leisure(("namespaces", tid), partial(_links, tid, names))
            _compare(process, own, links)
        mine = process.settled_link("ns/pid")
        childrens = process.looks.at_leisure(
            "children's pid namespace", partial(_link, process.tid, "pid_for_children")
        )
        if not childrens and process.settled_link("ns/user") != proc.link(os.getpid(), "ns/user"):
            raise process.unsupported(
                "namespaces",
                f"a pid_for_children namespace of its own, of a user namespace of its own: {_LATER}",
            )
        for link in {mine, childrens} - {own["pid"], b""}:
            _require_first(ctx, process, link)
        owner = owner_of(ctx, process, process.tid, "pid") if is_first(process) else b""
        if owner and len(proc.numbers_below(process.status).process) > 1:
            raise process.unsupported(
                "namespaces",
                "a pid namespace of a user namespace within another pid namespace is not supported; run it in one",
            )
        return NamespacesRecord(
            pid=mine if mine != own["pid"] else b"",
            pid_for_children=childrens if childrens != mine else b"",
            last_pid=(yield from _last_pid(ctx, mine)) if is_first(process) else 0,
            owner=owner,
            unshared_for_children=not childrens,
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: NamespacesRecord
    ) -> Remote[None]:
        yield from ()
        if record.last_pid:
            ctx.at_last(partial(_set_last_pid, process.pid, record.last_pid))


_LAST_PID: Final = "/proc/sys/kernel/ns_last_pid"
_NUMBER_BYTES: Final = 32
_OF_THREADS: Final = ("mnt",)  # what a thread may leave alone
_LATER: Final = "its children to come would be in it; let the one that unshared it end"
_REASONS: Final = {
    "mnt": "its other threads are in another one, which is not supported",
    "time_for_children": _LATER,
}


@lru_cache(maxsize=1)
def _own_links(pid: int) -> dict[str, bytes]:
    """Of this process, which never leaves its own."""
    return _links(pid, (*_REASONS, "time", "pid"))


def _links(tid: int, names: Iterable[str]) -> dict[str, bytes]:
    return {name: _link(tid, name) for name in names}


def _link(tid: int, name: str) -> bytes:
    try:
        return proc.link(tid, f"ns/{name}")
    except TaskDiedError:
        if name != "pid_for_children":
            raise
        proc.link(tid, "ns/mnt")  # of a task that has ended there is none either
        return b""  # one that no process is in yet


def _compare(process: CapturedProcess, own: dict[str, bytes], theirs: dict[str, bytes]) -> None:
    """`own`: of the restorer, but for kinds of which a process may have its own."""
    expected = own | {"time_for_children": theirs.get("time", own["time"])}
    for name, link in theirs.items():
        if link != expected[name] and name in _REASONS:
            raise process.unsupported(
                "namespaces", f"a {name} namespace of its own: {_REASONS[name]}"
            )


def _require_first(ctx: CaptureContext, process: CapturedProcess, link: bytes) -> None:
    """A pid namespace is made with its first process, without whom nobody can be in it."""
    if not any(map(is_first, _members(ctx, link))):
        raise process.unsupported(
            "namespaces",
            "a pid namespace whose first process is not in the partition cannot be made again; attach that one too",
        )


def _members(ctx: CaptureContext, link: bytes) -> Iterator[CapturedProcess]:
    return (one for one in ctx.processes.values() if one.settled_link("ns/pid") == link)


def is_first(process: CapturedProcess) -> bool:
    """Of a pid namespace below ours."""
    return proc.numbers_below(process.status).process[-1:] == (1,)


def _last_pid(ctx: CaptureContext, link: bytes) -> Remote[int]:
    """Asked inside, for each sees that of its own; where it has no /proc, the highest number that is in use."""
    (opened,) = yield [call("open", In(_LAST_PID.encode() + b"\0"), os.O_RDONLY | os.O_CLOEXEC, 0)]
    if opened.failed:
        return max(
            proc.numbers_below(proc.status(one.pid, tid)).task[-1]
            for one in _members(ctx, link)
            for tid in one.frozen.threads
        )
    read, _ = yield [
        call("read", opened.value, Out(_NUMBER_BYTES), _NUMBER_BYTES),
        call("close", opened.value),
    ]
    return int(read.outputs[0][: read.check()])


def _set_last_pid(pid: int, last: int) -> None:
    def write() -> bool:
        with (
            suppress(OSError),
            open(_LAST_PID, "wb", buffering=0) as file,
        ):  # CONFIG_CHECKPOINT_RESTORE
            file.write(b"%d" % last)
        return True

    told_from_inside(pid, write, bool)
