"""What a kernel resource is to capture and restore: its record, and one class that turns the world into it and back.

A resource is one of three: state that every process has (`ProcessState`), state that every thread has (`ThreadState`),
or a kind of open file description (`FileType`). Methods that need system calls inside the task are generators
(`sls.remote.Remote`): they yield lists of calls and get the replies; the orchestrators run many of them in one batch.
"""

import enum
import fcntl
import os
import signal
import struct
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from functools import lru_cache, partial
from typing import Any, Final, Generic, NamedTuple, Protocol, TypeVar

import msgspec

from sls import network, proc, syscalls
from sls.errors import TaskDiedError, UnsupportedResourceError
from sls.freeze import FrozenProcess, FrozenThread
from sls.mount_tree import OURS, MountTree
from sls.observations import Observations
from sls.proc import FdInfo, VmaLine
from sls.remote import Arena, Call, In, Remote, call
from sls.stay import NEW_IPC, NEW_NET, stay, stay_with

_OF_ADDRESS_SPACE = frozenset(["maps", "auxv"])
PIDFD_THREAD = os.O_EXCL  # of pidfd_open(2), Linux 6.9


class Stage(enum.IntEnum):
    """The order in which a process comes back; each stage of all processes ends before the next begins."""

    TASKS = (
        0  # processes, sessions, groups, threads: ids must be there before anything refers to them
    )
    MEMORY = (
        1  # mappings and contents: later calls need nothing of it, but files mapped must be open
    )
    FILES = 2  # descriptor tables: numbers must be right before anything is registered by number
    LINKS = (
        3  # what ties resources together: epoll interest, owners, locks, timers, pending signals
    )
    IDENTITY = 4  # credentials, capabilities, limits: last, for the calls before need root's rights
    RESUME = 5  # registers and masks


class Record(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that an image holds."""


class ProcessRecord(Record, frozen=True):
    """State of one process."""


class ThreadRecord(Record, frozen=True):
    """State of one thread."""


class FileRecord(Record, frozen=True, kw_only=True):
    """One open file description. `flags`: as fdinfo prints them, without O_CLOEXEC.

    `network`: the link of the network namespace that a socket is of; empty for the restorer's. `mounts`: the link of
    the mount namespace that a path is of; empty for the restorer's.
    """

    file_id: int
    flags: int
    network: bytes = b""
    mounts: bytes = b""


class Loss(Record, frozen=True):
    """Something that comes back in a lesser form, with the user's knowledge (`report`)."""

    pid: int
    resource: str
    detail: str


class Content(Record, frozen=True):
    """Names an object of the generation that holds bytes: shared memory, a deleted file."""

    object_id: int
    size_bytes: int


class MemorySource(Protocol):
    """Bytes of the target's that go into an object of the generation, read while everything stands still.

    A context manager: open within its block alone, for there may be very many.
    """

    def __enter__(self) -> object: ...

    def __exit__(self, *_: object) -> None: ...

    def data_ranges(self) -> Iterator[tuple[int, int]]:
        """Offsets [start, end) that hold data, ascending, page-aligned."""
        ...

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from `offset`."""
        ...


class OpenFile:
    """One open file description as found behind `pid`'s descriptor `fd` (the first one seen of it)."""

    def __init__(
        self, process: "CapturedProcess", fd: int, target: bytes, info: FdInfo, file_id: int
    ) -> None:
        self.process = process
        self.pid = process.tid  # a thread's number serves wherever a process's does
        self.fd = fd
        self.target = target
        self.info = info
        self.file_id = file_id
        self._stat: os.stat_result | None = None
        self._descriptor: int | None = None
        self._facts: dict[str, Any] = {}

    @property
    def flags(self) -> int:
        return self.info.flags & ~os.O_CLOEXEC

    @property
    def position(self) -> int:
        return self.info.position

    @property
    def stat(self) -> os.stat_result:
        """fstat(2) of the description."""
        if self._stat is None:
            path = f"/proc/{self.pid}/fd/{self.fd}"
            self._stat = self.process.looks.meanwhile(("status of", path), lambda: os.stat(path))
        return self._stat

    @property
    def descriptor(self) -> int:
        """A duplicate in this process (pidfd_getfd), closed when the capture ends. Look, never drain."""
        if self._descriptor is None:
            self.process.looks.must_be_at_rest(f"descriptor {self.fd}")
            self._descriptor = syscalls.pidfd_getfd(self.process.pidfd, self.fd)
        return self._descriptor

    @property
    def tree(self) -> MountTree:
        """What the file's path is of: an inherited descriptor may lead to our mounts."""
        tree = self.process.tree
        return tree if tree.link and tree.holds(int(self.info["mnt_id"])) else OURS

    def once(self, name: str, make: "Callable[[], T]") -> "T":
        """Something that several kinds of files look at to tell whether this one is theirs."""
        if name not in self._facts:
            self._facts[name] = make()
        found: T = self._facts[name]
        return found

    @property
    def network(self) -> bytes:
        """What tells the network namespace of a socket from others (`sls.network`)."""
        return self.once("network", lambda: network.cookie_of(self.descriptor))

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def unsupported(self, detail: str) -> UnsupportedResourceError:
        """The error that refuses this file by name."""
        return UnsupportedResourceError(self.pid, f"fd {self.fd}", detail)


class InFlightFile(OpenFile):
    """A description found in another file's queue. `fd` is a descriptor of this process, closed with the capture."""

    def __init__(self, holder: OpenFile, fd: int, file_id: int) -> None:
        target = proc.link(os.getpid(), f"fd/{fd}")
        super().__init__(holder.process, fd, target, proc.fdinfo(os.getpid(), fd), file_id)
        self.pid = os.getpid()
        self._holder = holder
        self._descriptor = fd

    def unsupported(self, detail: str) -> UnsupportedResourceError:
        """The error names who holds the queue."""
        return self._holder.unsupported(f"a descriptor in flight: {detail}")


class Memo:
    """What was made of a text at an earlier look: what did not change is not parsed again."""

    def __init__(self) -> None:
        self._kept: dict[str, tuple[bytes, Any]] = {}

    def put(self, what: str, text: bytes, value: object) -> bool:
        """Keep a value that was made anew; whether it is the one that was kept for the same text."""
        same = self._kept.get(what) == (text, value)
        self._kept[what] = (text, value)
        return same

    def knows(self, what: str, text: bytes) -> bool:
        """Whether something is kept that was made of that text."""
        known = self._kept.get(what)
        return known is not None and known[0] == text

    def drop(self, what: str) -> None:
        """Forget what was made of a text."""
        self._kept.pop(what, None)

    def of(self, what: str, text: bytes, make: "Callable[[], T]") -> "T":
        """`make()`, or what it gave when `text` was the same the last time."""
        known = self._kept.get(what)
        if known is None or known[0] != text:
            known = self._kept[what] = (text, make())
        found: T = known[1]
        return found


@lru_cache(maxsize=1)
def _own_ipc(pid: int) -> bytes:
    """The link of this process's IPC namespace, which it never leaves but for a stay."""
    return proc.link(pid, "ns/ipc")


def _key(name: str) -> Hashable:
    return "read", name


class CapturedProcess:
    """A frozen process while it is read. Text of /proc is read once and kept for the capture (`looks`).

    `tid` is a live thread, the leader unless that has ended: what the kernel shows of an ended leader is empty, so
    /proc is read through it. `stat`: of the leader, read in this stop.
    """

    def __init__(
        self,
        frozen: FrozenProcess,
        object_id: int,
        memo: Memo,
        looks: Observations,
        stat: bytes,
        *,
        is_tracked: bool,
    ) -> None:
        self.frozen = frozen
        self.memo = memo
        self.looks = looks
        self.pid = frozen.pid
        self.tid = frozen.leader.tid
        self.object_id = object_id  # of its memory in the generation
        self.arena: Arena | None = None
        # by descriptor, complete before any capture runs
        self.infos: dict[int, FdInfo] = {}
        self.targets: dict[int, bytes] = {}
        self.tree = OURS  # of its mount namespace, set before any capture runs
        self._is_tracked = is_tracked
        self._facts: dict[str, Any] = {}
        if self.tid == self.pid:
            looks.put(_key("stat"), stat)
        self.stat = proc.parse_stat(self.read("stat"))
        self._statuses: dict[int, proc.Fields] = {}
        self.status = self.status_of(self.tid)
        self.maps_text = self.read("maps")
        self._parse_maps()
        self._pidfd: int | None = None

    def read(self, name: str) -> bytes:
        """/proc/<pid>/<name> as it was while the process stood still."""
        read = proc.read if name in _OF_ADDRESS_SPACE else proc.reread
        look = self.looks.meanwhile if name.startswith("fdinfo/") else self.looks.of
        return look(_key(name), partial(read, self.tid, name))

    def read_of_thread(self, tid: int, name: str) -> bytes:
        """/proc/<pid>/task/<tid>/<name> as it was while the thread stood still."""
        return self.read(self._name(tid, name))

    def _name(self, tid: int, name: str) -> str:
        return name if tid == self.tid else f"task/{tid}/{name}"

    def status_of(self, tid: int) -> proc.Fields:
        """/proc/<pid>/task/<tid>/status as it was while the thread stood still."""
        if tid not in self._statuses:
            self._statuses[tid] = proc.Fields(self.read_of_thread(tid, "status"))
        return self._statuses[tid]

    def status_key(self, tid: int) -> Hashable:
        """What `looks` know the text of `status_of` by."""
        return _key(self._name(tid, "status"))

    def link(self, name: str) -> bytes:
        """Target of the symbolic link /proc/<pid>/<name>, as it was while the process stood still."""
        return self.looks.meanwhile(("link", name), partial(proc.link, self.tid, name))

    def settled(self, name: str) -> bytes:
        """/proc/<pid>/<name>, where it tells what hardly ever changes."""
        read = proc.read if name in _OF_ADDRESS_SPACE else proc.reread
        return self.looks.at_leisure(_key(name), partial(read, self.tid, name))

    def settled_link(self, name: str) -> bytes:
        """Target of the symbolic link /proc/<pid>/<name>, where it hardly ever changes."""
        return self.looks.at_leisure(("link", name), partial(proc.link, self.tid, name))

    @property
    def ipc(self) -> bytes:
        """The link of its IPC namespace; empty for ours."""
        return self.ipc_of(self.tid)

    def ipc_of(self, tid: int) -> bytes:
        """The same of one of its threads."""
        key = ("ipc namespace", tid)
        link = self.looks.at_leisure(key, partial(proc.link, tid, "ns/ipc"))
        return b"" if link == _own_ipc(os.getpid()) else link

    def read_maps(self) -> None:
        """Take `maps` from /proc again, after a mapping of ours has gone."""
        self.maps_text = proc.read(self.tid, "maps")
        self._parse_maps()

    def _parse_maps(self) -> None:
        if not self.maps_text:  # its memory went first
            raise TaskDiedError(self.pid, "reading maps")
        self.maps: list[VmaLine] = self.memo.of(
            "maps", self.maps_text, lambda: proc.parse_maps(self.maps_text)
        )

    def once(self, name: str, make: "Callable[[], T]") -> "T":
        """Something that is made once in a capture."""
        if name not in self._facts:
            self._facts[name] = make()
        found: T = self._facts[name]
        return found

    @property
    def pidfd(self) -> int:
        if self._pidfd is None:
            self._pidfd = os.pidfd_open(self.tid, PIDFD_THREAD if self.tid != self.pid else 0)
        return self._pidfd

    @property
    def is_stopped(self) -> bool:
        """Whether the process stands still until SIGCONT, or is about to."""
        pending = int(self.status["SigPnd"], 16) | int(self.status["ShdPnd"], 16)
        return bool(pending >> (signal.SIGSTOP - 1) & 1) or any(
            thread.is_group_stopped for thread in self.frozen.threads.values()
        )

    def is_arena(self, vma: VmaLine) -> bool:
        """Whether `vma` is our own, not the program's."""
        return self.arena is not None and self.arena.base <= vma.start < self.arena.end

    def is_watch_of_ours(self, flag: str) -> bool:
        """Whether a userfaultfd flag of a mapping (`uw`) comes from our own tracking of pages."""
        return self._is_tracked and flag == "uw"

    def close(self) -> None:
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def unsupported(self, resource: str, detail: str) -> UnsupportedResourceError:
        """The error that refuses this process's `resource` by name."""
        return UnsupportedResourceError(self.pid, resource, detail)


class Shelter(Protocol):
    """What a resource holds up between the end of processes and their return, so that nobody outside notices."""

    def begin(self) -> None:
        """All that is to come back has been told of."""
        ...

    def seal(self) -> None:
        """The processes have ended."""
        ...

    def close(self) -> None:
        """They are back, or do not come back."""
        ...


class Parting:
    """The time between the end of processes and their return, and what resources hold up in it.

    `image_time_ns`: of the image that was taken in it, while the processes stood still for the last time; 0: of none.
    """

    def __init__(self) -> None:
        self.image_time_ns = 0
        self._shelters: dict[type[Shelter], Shelter] = {}

    def shelter(self, kind: "type[S]") -> "S":
        """The shelter of that kind, put up by the first that asks."""
        if kind not in self._shelters:
            self._shelters[kind] = kind()
        found = self._shelters[kind]
        assert isinstance(found, kind)
        return found

    def begin(self) -> None:
        """All that is to come back has been told of."""
        for one in self._shelters.values():
            one.begin()

    def seal(self) -> None:
        """The processes have ended."""
        for one in self._shelters.values():
            one.seal()

    def close(self) -> None:
        """They are back, or do not come back. May be called again."""
        for one in self._shelters.values():
            one.close()
        self._shelters.clear()


class CaptureContext:
    """What resources may ask and tell during one capture. `parting`: the processes end with it."""

    def __init__(
        self,
        processes: Sequence[CapturedProcess],
        first_object_id: int,
        parting: Parting | None = None,
    ) -> None:
        self.parting = parting
        self.processes = {process.pid: process for process in processes}
        self.losses: list[Loss] = []
        self.contents: list[tuple[Content, MemorySource]] = []
        self.files: dict[int, OpenFile] = {}
        self.versions: dict[
            tuple[bytes, bytes], Any
        ] = {}  # mounts, path → what was seen of the mapped file
        # (pid, fd) → file id, complete before any FileType.capture runs
        self.descriptors: dict[tuple[int, int], int] = {}
        self.network = b""  # the link of the namespace that we stay in, or empty
        self.ipc = b""  # the same
        self._seen: set[object] = set()
        self._shared: dict[object, Any] = {}
        self._contents: dict[object, Content] = {}
        self._next_object_id = first_object_id
        self._at_end: list[Callable[[], object]] = []

    def lose(self, pid: int, resource: str, detail: str) -> None:
        """Record that `resource` comes back in a lesser form."""
        self.losses.append(Loss(pid=pid, resource=resource, detail=detail))

    def is_first_sight(self, identity: object) -> bool:
        """True once for each identity: whose record carries what all holders share (a pipe's bytes)."""
        key = (self.ipc, identity)
        if key in self._seen:
            return False
        self._seen.add(key)
        return True

    def keep(
        self, identity: object, size_bytes: int, source: Callable[[], MemorySource]
    ) -> Content:
        """Put the bytes of `source` into the generation, once for each `identity`; while everyone stands still."""
        if identity not in self._contents:
            for process in self.processes.values():
                process.looks.must_be_at_rest("what goes into the generation")
            content = Content(object_id=self._next_object_id, size_bytes=size_bytes)
            self._next_object_id += 1
            self._contents[identity] = content
            self.contents.append((content, source()))
        return self._contents[identity]

    def once(self, identity: object, make: "Callable[[], T]") -> "T":
        """What several records are derived from (a table of the kernel's); made by the first that asks.

        A table of one namespace is not that of another.
        """
        key = (self.network, self.ipc, identity)
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    @contextmanager
    def network_of(self, file: OpenFile) -> Iterator[bytes]:
        """Within, calls are made in the network namespace that a socket is of; its link, empty for ours."""
        if not file.target.startswith(b"socket:") or network.is_of_ours(file.network):
            yield b""
            return
        namespace = network.namespace_of(file.descriptor)
        try:
            link = proc.link(os.getpid(), f"fd/{namespace}")
            if link not in self.once("networks of members", self._networks):
                raise file.unsupported("a socket of a network namespace that no member is in")
            with stay(NEW_NET, namespace):
                self.network = link
                try:
                    yield link
                finally:
                    self.network = b""
        finally:
            os.close(namespace)

    @contextmanager
    def ipc_of(self, process: CapturedProcess) -> Iterator[bytes]:
        """Within, System V objects are of the IPC namespace that a process is in; its link, empty for ours."""
        link = process.ipc
        if not link:
            yield b""
            return
        with stay_with(NEW_IPC, process.tid):
            self.ipc = link
            try:
                yield link
            finally:
                self.ipc = b""

    def _networks(self) -> set[bytes]:
        return {
            proc.link(tid, "ns/net")
            for process in self.processes.values()
            for tid in process.frozen.threads
        }

    def adopt(self, fd: int, holder: OpenFile) -> int:
        """The file id of a description in flight in `holder`'s queue. `fd`, a descriptor of this process, is taken."""
        file = InFlightFile(holder, fd, max(self.files, default=0) + 1)
        for known in self.files.values():
            if known.target == file.target and known.flags == file.flags:
                same = syscalls.kcmp(known.pid, file.pid, syscalls.KCMP_FILE, known.fd, fd)
                if same == 0:
                    file.close()
                    return known.file_id
        self.files[file.file_id] = file
        return file.file_id

    def close_adopted(self) -> None:
        """Close what `adopt` took."""
        for file in self.files.values():
            if isinstance(file, InFlightFile):
                file.close()

    def at_end(self, work: Callable[[], object]) -> None:
        """Do this when all contents are copied."""
        self._at_end.append(work)

    def close(self) -> None:
        """All contents are copied, or there is no capture."""
        self.close_adopted()
        while self._at_end:
            self._at_end.pop()()

    def holders(self, file_id: int) -> list[tuple[int, int]]:
        """Every (pid, fd) of the partition that refers to the description."""
        return [where for where, found in self.descriptors.items() if found == file_id]


class RestoredProcess(Protocol):
    """A process on its way back: blank at first."""

    pid: int
    layout: Sequence[VmaLine]  # of the blank address space
    spare_address: int  # where nothing is, before or after: 1 MiB

    @property
    def arena_place(self) -> tuple[int, int]:
        """Addresses [start, end) of what is the restorer's own."""
        ...

    def is_arena(self, vma: VmaLine) -> bool:
        """Whether `vma` is the restorer's own."""
        ...

    def own_number(self, number: int) -> int:
        """What a task, group or session of the image is called in the process's own pid namespace; 0: nothing."""
        ...

    def fill(self, object_id: int, writable: Sequence[tuple[int, int]]) -> None:
        """Write the generation's bytes to their addresses. `writable`: ranges that the process itself may write."""
        ...


class ContentReader(Protocol):
    """Contents of objects of the generation."""

    def data_ranges(self, object_id: int) -> Sequence[tuple[int, int]]:
        """Offsets [start, end) that hold data."""
        ...

    def copy_to(self, object_id: int, ranges: Sequence[tuple[int, int]], write: "Writer") -> None:
        """Hand the bytes of `ranges`, whole pages, to `write`, in pieces."""
        ...


Writer = Callable[[int, memoryview], None]  # (offset, bytes)


class Owner(NamedTuple):
    """With whose rights files are looked up and opened at a restore."""

    uid: int
    gid: int
    groups: tuple[int, ...] = ()


ROOT: Final = Owner(0, 0)
_FIRST_INHERITED: Final = 64  # numbers below are the restorer's own


class RestoreContext:
    """What resources may ask and tell during one restore. Descriptors registered here are closed at its end.

    `is_last_word`: the processes ended with the image, and `parting` has held up what it could since.
    """

    def __init__(
        self,
        contents: ContentReader,
        *,
        is_same_boot: bool,
        parting: Parting,
        is_last_word: bool,
        terminal: Sequence[int] = (),
        owner: Owner = ROOT,
    ) -> None:
        self.contents = contents
        self.parting = parting
        self.is_last_word = is_last_word
        self._owner = owner
        self.is_same_boot = is_same_boot
        self.terminal = tuple(
            terminal
        )  # the restorer's terminal as descriptors 0, 1, 2 here, or empty
        self.notes: list[Loss] = []
        self.file_descriptors: dict[int, int] = {}
        self._shared: dict[object, Any] = {}
        self._to_close: list[int] = []
        self.networks: dict[bytes, int] = {}  # link of a network namespace → the new one
        self.user_namespaces: dict[bytes, int] = {}  # link of a user namespace → the new one
        # who goes to namespaces in another one's stead → the link of the user namespace that it goes no further than
        self.stops_at: dict[int, bytes] = {}
        self.trees = {b"": OURS}  # link of a mount namespace → the new one
        # link of a mount namespace → descriptors of its mounts, until the last of them is in its place
        self.unfinished: dict[bytes, list[int]] = {}
        self.ipc_namespaces: dict[bytes, int] = {}  # link of an IPC namespace → the new one
        # kind of namespace → the link of the one that we stay in, or empty
        self._stays = {NEW_NET: b"", NEW_IPC: b""}
        self._made: list[Callable[[], object]] = []
        self._at_last: list[Callable[[], object]] = []

    def as_owner(self) -> AbstractContextManager[None]:
        """Within, names lead where the owner of the partition may go: he may have changed what is behind them."""
        return syscalls.acting_as(*self._owner)

    def calls_as_owner(self, calls: "Sequence[Call]") -> "list[Call]":
        """The calls of a restored process, still root's, made with the rights that `as_owner` gives.

        Its groups are those of the owner from then on.
        """
        if self._owner == ROOT:
            return list(calls)
        uid, gid, groups = self._owner
        packed = struct.pack(f"={len(groups)}I", *groups)
        return [
            call("setgroups", len(groups), In(packed) if packed else 0),
            *(call("setfsgid", gid), call("setfsuid", uid)),
            *calls,
            *(call("setfsuid", 0), call("setfsgid", 0)),
        ]

    def note(self, resource: str, detail: str, pid: int = 0) -> None:
        """Tell the user of something that came back in another form."""
        self.notes.append(Loss(pid=pid, resource=resource, detail=detail))

    def once(self, identity: object, make: "Callable[[], T]") -> "T":
        """The object that several records share (a pipe, a memfd); made by the first that asks.

        What is made of one namespace is not of another.
        """
        key = (*self._stays.values(), identity)
        if key not in self._shared:
            self._shared[key] = make()
        found: T = self._shared[key]
        return found

    def in_network(self, link: bytes) -> AbstractContextManager[None]:
        """Within, calls are made in that network namespace; in ours where the link is empty."""
        return self._within(NEW_NET, self.networks, link)

    def in_ipc(self, link: bytes) -> AbstractContextManager[None]:
        """Within, System V objects and message queues are of that IPC namespace; of ours where the link is empty."""
        return self._within(NEW_IPC, self.ipc_namespaces, link)

    @contextmanager
    def _within(self, kind: int, made: dict[bytes, int], link: bytes) -> Iterator[None]:
        if not link:
            yield
            return
        with stay(kind, made[link]):
            self._stays[kind] = link
            try:
                yield
            finally:
                self._stays[kind] = b""

    def opened(self, fd: int) -> int:
        """Register a descriptor of this process that is closed when the restore ends; returns it."""
        self._to_close.append(fd)
        return fd

    def inheritable(self, fd: int) -> int:
        """A duplicate that the processes inherit; `fd` may be closed."""
        high = fcntl.fcntl(fd, fcntl.F_DUPFD, _FIRST_INHERITED)
        return self.opened(high)

    def on_failure(self, remove: "Callable[[], object]") -> None:
        """Something was made that outlives its makers (a segment, a queue): `remove` it when the restore fails.

        What is in a namespace that was made as well goes with that.
        """
        if not self._stays[NEW_IPC]:
            self._made.append(remove)

    def remove_made(self) -> None:
        """The restore has failed: the last made goes first. What is gone already is no matter."""
        while self._made:
            with suppress(OSError):
                self._made.pop()()

    def at_last(self, work: "Callable[[], object]") -> None:
        """Do this when all is made and the parting is over, before anyone goes."""
        self._at_last.append(work)

    def end_parting(self) -> None:
        """All is made: what was held up is let go, then what waited for that is done."""
        self.parting.close()
        for work in self._at_last:
            work()

    def descriptor(self, file_id: int) -> int:
        """This process's descriptor of a file that is restored already."""
        return self.file_descriptors[file_id]

    def close(self) -> None:
        for fd in self._to_close:
            os.close(fd)
        self._to_close.clear()


T = TypeVar("T")
S = TypeVar("S", bound=Shelter)
P = TypeVar("P", bound=ProcessRecord)
H = TypeVar("H", bound=ThreadRecord)
F = TypeVar("F", bound=FileRecord)


class ProcessState(Generic[P]):
    """State that every process has. `capture` runs in the leader, `restore` in the new leader, at `stage`."""

    stage: Stage
    record: type[P]

    def look_ahead(self, tid: int, memo: Memo, *, anew: bool) -> None:
        """Before the stop: put what is slow to read into `memo`, for `capture` to use if nothing has changed.

        Not `anew`: only where something seems to have changed since the last time.
        """

    def prepare(self, ctx: RestoreContext, record: P) -> None:
        """Before any process is made: open what it is to inherit (`ctx.inheritable`). Nothing by default."""

    def lead(self, ctx: RestoreContext, record: P) -> list[Call]:
        """Calls that the leader of a new session makes before it has children. None by default."""
        return []

    def alone(self, ctx: RestoreContext, record: P, pid: int) -> list[Call]:
        """Calls that the leader, `pid`, makes while it is its process's only thread. None by default.

        In the opposite order of the register.
        """
        return []

    def can_wait(self, process: CapturedProcess) -> bool:
        """Whether `capture` does nothing but look, through `process`, and so may run when the tasks do again."""
        return False

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[P]:
        raise NotImplementedError

    def restore(self, ctx: RestoreContext, process: RestoredProcess, record: P) -> Remote[None]:
        raise NotImplementedError


class ThreadState(Generic[H]):
    """State that every thread has. `capture` runs in the thread, `restore` in the new one, at `stage`."""

    stage: Stage
    record: type[H]

    def prepare(self, ctx: RestoreContext, record: H) -> None:
        """Before any process is made: open what it is to inherit (`ctx.inheritable`). Nothing by default."""

    def alone(self, ctx: RestoreContext, record: H, pid: int) -> list[Call]:
        """As in `ProcessState`, for the leader's record."""
        return []

    def can_wait(self, process: CapturedProcess) -> bool:
        """As in `ProcessState`."""
        return False

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[H]:
        raise NotImplementedError

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: H
    ) -> Remote[None]:
        raise NotImplementedError


class FileType(Generic[F]):
    """A kind of open file description. Made in the restoring process, inherited by those who hold it.

    `is_late`: made once the processes are there, for it refers to them; its holders fetch it from this process.
    `holds_files`: other files may be inside of it (descriptors in flight), found when it is captured.
    `is_of_sockets`: asked of sockets, and of nothing else.
    """

    record: type[F]
    is_late: bool = False
    holds_files: bool = False
    is_of_sockets: bool = False

    def matches(self, file: OpenFile) -> bool:
        """Whether `file` is of this kind. Cheap: looks at the link's text, or the mode."""
        raise NotImplementedError

    def can_wait(self, file: OpenFile) -> bool:
        """Whether `capture` needs no more than link, fdinfo and fstat(2), and so may run when the tasks do again."""
        return False

    def capture(self, ctx: CaptureContext, file: OpenFile) -> F:
        """The record. Raises `file.unsupported(…)` for what cannot be kept."""
        raise NotImplementedError

    def part(self, parting: Parting, record: F) -> None:
        """Its holders are about to end, or have ended, and come back from `record`: hold up what is outside.

        May be called again. Nothing by default.
        """

    def restore(self, ctx: RestoreContext, record: F) -> int:
        """A new descriptor in this process. Status flags (O_NONBLOCK, O_APPEND …) are set by the caller."""
        raise NotImplementedError

    def settle(self, ctx: RestoreContext, record: F, fd: int) -> Iterator[None]:
        """Once every file is open and no process is made yet: what needs other files. Nothing by default.

        Each `yield` ends a round: all files end theirs before one begins the next.
        """
        yield from ()

    def link(
        self, ctx: RestoreContext, record: F, process: RestoredProcess, fd: int
    ) -> Remote[None]:
        """Calls made in one process that holds the file as `fd`, once all tables are complete. None by default."""
        yield from ()
