"""What the kept namespaces have in common (namespaces(7)): whose one is, how it is looked into, how one is made anew.

Not a resource of its own: those that are derived from `OwnNamespace` are. Looking and making happen in children that
share this process's descriptors, so the tracer itself never leaves its own namespaces.
"""

import fcntl
import os
from collections.abc import Callable
from functools import partial
from typing import Final, Generic, Protocol, TypeVar

import msgspec

from sls import proc, syscalls
from sls.child import run_apart, told_by_child
from sls.freeze import FrozenThread
from sls.remote import Call, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)

_NEW_TIME: Final = 0x80
NEW_USER: Final = 0x10000000
_NS_GET_USERNS, NS_GET_PARENT = 0xB701, 0xB702
_FOR_CHILDREN: Final = {_NEW_TIME: "time_for_children"}


class _Linked(Protocol):
    @property
    def link(self) -> bytes: ...

    @property
    def owner(self) -> bytes: ...


class ThreadNamespaceRecord(ThreadRecord, frozen=True):
    """`link`: the namespace's own, which tells equal ones; empty for the restorer's.

    `owner`: the link of the user namespace that it belongs to; empty for the restorer's.
    """

    link: bytes = b""
    owner: bytes = b""


class ProcessNamespaceRecord(ProcessRecord, frozen=True):
    """As `ThreadNamespaceRecord`, where threads cannot be apart."""

    link: bytes = b""
    owner: bytes = b""


def lineage(tid: int) -> list[int]:
    """Descriptors of the user namespace of a thread and of those that it is within, up to ours, without that."""
    ours = proc.link(os.getpid(), "ns/user")
    fd = os.open(f"/proc/{tid}/ns/user", os.O_RDONLY | os.O_CLOEXEC)
    found: list[int] = []
    while proc.link(os.getpid(), f"fd/{fd}") != ours:
        found.append(fd)
        fd = fcntl.ioctl(fd, NS_GET_PARENT)
    os.close(fd)
    return found


def _lineage_links(tid: int) -> list[bytes]:
    descriptors = lineage(tid)
    links = [proc.link(os.getpid(), f"fd/{fd}") for fd in descriptors]
    for fd in descriptors:
        os.close(fd)
    return links


def _owner_link(tid: int, name: str) -> bytes:
    """The link of the user namespace that a namespace belongs to (ioctl_ns(2)); empty where that is above ours."""
    fd = os.open(f"/proc/{tid}/ns/{name}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = fcntl.ioctl(fd, _NS_GET_USERNS)
    except PermissionError:
        return b""
    finally:
        os.close(fd)
    try:
        return proc.link(os.getpid(), f"fd/{found}")
    finally:
        os.close(found)


def owner_of(ctx: CaptureContext, process: CapturedProcess, tid: int, name: str) -> bytes:
    """The link of the user namespace that a namespace of a thread's belongs to; empty for the restorer's."""
    link = process.looks.at_leisure((f"owner of {name}", tid), partial(_owner_link, tid, name))
    if link in (b"", os.readlink(b"/proc/self/ns/user")):
        return b""
    if link not in process.looks.at_leisure("its user namespaces", partial(_lineage_links, tid)):
        raise process.unsupported(
            "namespaces", f"a {name} namespace of a user namespace that it is not in, nor within"
        )
    return link


T = TypeVar("T")
L = TypeVar("L", bound=_Linked)
H = TypeVar("H", bound=ThreadNamespaceRecord)
P = TypeVar("P", bound=ProcessNamespaceRecord)


class OwnNamespace(Generic[L]):
    """One kind of namespace. `name`: its file in /proc/<tid>/ns; `flag`: as of clone(2)."""

    name: str
    flag: int

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def precede(self, ctx: RestoreContext, record: L) -> None:
        """In a child, before there is the new namespace."""

    def settle(self, ctx: RestoreContext, record: L) -> None:
        """In a child, in the new namespace: make it what the old one was."""

    def own_link(self, ctx: CaptureContext, process: CapturedProcess, tid: int) -> bytes:
        """The link that tells equal namespaces; empty when the thread is in the restorer's."""
        key = (f"{self.name} namespace", tid)
        link = process.looks.at_leisure(key, partial(proc.link, tid, f"ns/{self.name}"))
        ours = ctx.once(
            ("own namespace", self.name), lambda: proc.link(os.getpid(), f"ns/{self.name}")
        )
        return b"" if link == ours else link

    def own_owner(self, ctx: CaptureContext, process: CapturedProcess, tid: int) -> bytes:
        """The link of the user namespace that its own belongs to; empty for the restorer's."""
        return owner_of(ctx, process, tid, self.name)

    def look_inside(self, tid: int, look: Callable[[], T], kind: type[T]) -> T:
        """What `look` finds in the namespace that a thread is in."""
        fd = os.open(f"/proc/{tid}/ns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)

        def enter_and_look() -> T:
            syscalls.syscall("setns", fd, self.flag)
            return look()

        try:
            return told_by_child(enter_and_look, kind)
        finally:
            os.close(fd)

    def prepare(self, ctx: RestoreContext, record: L) -> None:
        if record.link:
            self.made(ctx, record)

    def made(self, ctx: RestoreContext, record: L) -> int:
        """A descriptor of the new namespace, which the processes inherit, one for each link."""
        return ctx.once((f"{self.name} namespace", record.link), lambda: self._make(ctx, record))

    def entering(self, ctx: RestoreContext, record: L, tid: int) -> list[Call]:
        """The call that takes thread `tid`, who makes it, there; none where that is."""
        if not record.link:
            return []
        made = self.made(ctx, record)
        if proc.link(tid, f"ns/{self.name}") == proc.link(os.getpid(), f"fd/{made}"):
            return []
        return [call("setns", made, self.flag)]

    def _make(self, ctx: RestoreContext, record: L) -> int:
        """The descriptor is the child's as well, and stays when that has ended."""
        place = os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC)
        name = _FOR_CHILDREN.get(self.flag, self.name)

        def work() -> None:
            self.precede(ctx, record)
            if record.owner:
                syscalls.syscall("setns", ctx.user_namespaces[record.owner], NEW_USER)
            syscalls.syscall("unshare", self.flag)
            self.settle(ctx, record)
            made = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
            os.dup2(made, place, inheritable=False)
            os.close(made)

        try:
            run_apart(work)
            return ctx.inheritable(place)
        finally:
            os.close(place)


class ThreadNamespace(OwnNamespace[H], ThreadState[H]):
    """One that a thread may leave alone."""

    stage = Stage.TASKS

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[H]:
        link = self.own_link(ctx, process, thread.tid)
        if not link:
            return self.record()
        owner = self.own_owner(ctx, process, thread.tid)
        record = yield from self.capture_own(process, thread, link)
        return msgspec.structs.replace(record, owner=owner) if owner else record

    def capture_own(self, process: CapturedProcess, thread: FrozenThread, link: bytes) -> Remote[H]:
        """The record of one that is not the restorer's."""
        raise NotImplementedError

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: H
    ) -> Remote[None]:
        yield from remote_all(self.entering(ctx, record, tid))

    def alone(self, ctx: RestoreContext, record: H, pid: int) -> list[Call]:
        return self.entering(ctx, record, pid)


class ProcessNamespace(OwnNamespace[P], ProcessState[P]):
    """One that all threads of a process are in; entered while there is but one."""

    stage = Stage.TASKS

    def alone(self, ctx: RestoreContext, record: P, pid: int) -> list[Call]:
        return self.entering(ctx, record, pid)

    def restore(self, ctx: RestoreContext, process: RestoredProcess, record: P) -> Remote[None]:
        yield from ()
