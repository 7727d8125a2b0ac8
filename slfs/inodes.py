"""What the tree is: directories, files and links of a mount, without FUSE.

    /README /status /metrics
    /partitions/<oid>/<control file>
    /partitions/<oid>/generations/…      (slfs.generations)
    /partitions/<oid>/tags/…             (slfs.tags)

A node is a small value made at each lookup; `identity` says which nodes are the same file, and
`InodeTable` gives each identity a number for as long as the kernel remembers it. Nodes that touch
the store are `is_slow`: call their methods from a worker thread. The table belongs to the event loop.
"""

import errno
import itertools
import stat
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final, Protocol

from libsls import protocol
from libsls.protocol import File, ProtocolError
from slfs.access import Caller
from slfs.control import VERBS
from slfs.errors import RefusedError
from slfs.registry import Entry, Owner, Registry
from slfs.watch import Watch

ROOT_OWNER: Final = Owner(0, 0)


@dataclass(frozen=True, kw_only=True)
class Attributes:
    """What stat(2) tells of a node. `is_lasting`: it never changes, so the kernel may keep it.

    `has_lasting_name`: its name stands for it as long as it is there; what else is told may be a second old.
    `stored_bytes`: what it takes where that is less than its size; `block_bytes`: what to read it by.
    """

    mode: int
    owner: Owner = ROOT_OWNER
    size: int = 0
    links: int = 1
    time_ns: int = 0
    is_lasting: bool = False
    has_lasting_name: bool = False
    stored_bytes: int | None = None
    block_bytes: int = 4096


# --- open files -------------------------------------------------------------------------------


class Handle(Protocol):
    """One open file."""

    watch: Watch | None

    def read(self, offset: int, size: int) -> bytes: ...

    def is_readable(self) -> bool:
        """Whether there is something that this opener has not read yet."""
        ...


class TextHandle:
    """A text made when read from its start, so that one pass over it sees one state."""

    def __init__(self, render: Callable[[], bytes], watch: Watch | None = None) -> None:
        self._render = render
        self._text: bytes | None = None
        self._seen = 0
        self.watch = watch

    def read(self, offset: int, size: int) -> bytes:
        if offset == 0 or self._text is None:
            self._seen = self.watch.version if self.watch else 1
            self._text = self._render()
        return self._text[offset : offset + size]

    def is_readable(self) -> bool:
        return self.watch is None or self._seen != self.watch.version


class LogHandle:
    """A log: a growing text, readable while there is more than was read."""

    def __init__(self, entry: Entry) -> None:
        self._journal = entry.journal
        self._position = 0
        self.watch: Watch | None = entry.journal.watch

    def read(self, offset: int, size: int) -> bytes:
        data = self._journal.read(offset, size)
        self._position = offset + len(data)
        return data

    def is_readable(self) -> bool:
        return self._position < self._journal.size()


# --- nodes ------------------------------------------------------------------------------------


class Node:
    """Anything that has an inode number."""

    is_slow: ClassVar[bool] = False
    is_at_hand: ClassVar[bool] = False  # its attributes and `open` are not slow, whatever else is
    read_only_errno: ClassVar[int] = errno.EACCES  # what a change of it is refused with

    @property
    def identity(self) -> Hashable:
        raise NotImplementedError

    def attributes(self) -> Attributes:
        raise NotImplementedError

    def listed_attributes(self) -> Attributes:
        """`attributes`, but for a directory's listing: a size that is slow to tell may be missing, if not lasting."""
        return self.attributes()

    def refuse(self, what: str) -> RefusedError:
        """The error for a change that this node does not take."""
        return RefusedError(f"{what} is not possible here; see README", self.read_only_errno)


class Directory(Node):
    """A directory. `names` is a snapshot; `lookup` may miss what it named a moment ago."""

    read_only_errno = errno.EPERM

    def names(self) -> Sequence[bytes]:
        raise NotImplementedError

    def lookup(self, name: bytes) -> Node | None:
        raise NotImplementedError

    def make_directory(self, name: bytes, caller: Caller) -> Node:
        raise self.refuse("mkdir")

    def remove_directory(self, name: bytes, caller: Caller) -> None:
        raise self.refuse("rmdir")

    def make_symlink(self, name: bytes, target: bytes, caller: Caller) -> Node:
        raise self.refuse("symlink")

    def remove_file(self, name: bytes, caller: Caller) -> None:
        raise self.refuse("unlink")

    def rename_within(self, name: bytes, new_name: bytes, flags: int, caller: Caller) -> None:
        """renameat2(2) of a name of this directory to another one of it."""
        raise self.refuse("rename")


class RegularFile(Node):
    """A file. `keeps_pages`: the kernel may keep what was read until the next open, and map it."""

    keeps_pages: bool = False

    def open(self) -> Handle:
        """A handle for reading."""
        raise NotImplementedError


class TextFile(RegularFile):
    """A read-only file whose contents are made when it is opened."""

    watch: Watch | None = None

    def render(self) -> bytes:
        raise NotImplementedError

    def open(self) -> Handle:
        return TextHandle(self.render, self.watch)


class Symlink(Node):
    """A symbolic link."""

    def target(self) -> bytes:
        raise NotImplementedError


# --- the top ----------------------------------------------------------------------------------


class StaticFile(TextFile):
    """A file of the top directory, made by a function of the registry."""

    is_slow = True

    def __init__(self, registry: Registry, name: str, render: Callable[[Registry], bytes]) -> None:
        self._registry = registry
        self._name = name
        self._render = render

    @property
    def identity(self) -> Hashable:
        return ("top", self._name)

    def attributes(self) -> Attributes:
        return Attributes(mode=stat.S_IFREG | 0o444, time_ns=self._registry.started_ns)

    def render(self) -> bytes:
        return self._render(self._registry)


TopFiles = dict[str, Callable[[Registry], bytes]]
Parts = Mapping[str, Callable[[Entry], Directory]]  # directories of a partition, by name


class RootDirectory(Directory):
    """The top of the mount."""

    identity: Final = ("root",)

    def __init__(self, registry: Registry, files: TopFiles, parts: Parts) -> None:
        self._registry = registry
        self._files = files
        self._partitions = PartitionsDirectory(registry, parts)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFDIR | 0o755, links=3, time_ns=self._registry.started_ns, is_lasting=True
        )

    def names(self) -> Sequence[bytes]:
        return [*(name.encode() for name in self._files), protocol.PARTITIONS.encode()]

    def lookup(self, name: bytes) -> Node | None:
        text = name.decode(errors="replace")
        if text == protocol.PARTITIONS:
            return self._partitions
        render = self._files.get(text)
        return StaticFile(self._registry, text, render) if render else None


class PartitionsDirectory(Directory):
    """/partitions: mkdir creates a partition, rmdir deletes it."""

    identity: Final = ("partitions",)
    # Durable on return: mkdir and rmdir wait for the disk. So does a lookup, for their lock at most.
    is_slow = True

    def __init__(self, registry: Registry, parts: Parts) -> None:
        self._registry = registry
        self._parts = parts

    def attributes(self) -> Attributes:
        # Sticky: anyone may create a partition, only its owner may delete it.
        return Attributes(
            mode=stat.S_IFDIR | stat.S_ISVTX | 0o777,
            links=2 + len(self._registry.oids()),
            time_ns=self._registry.started_ns,
            is_lasting=True,  # partitions come and go by mkdir and rmdir here: the kernel knows
        )

    def names(self) -> Sequence[bytes]:
        return [b"%d" % oid for oid in self._registry.oids()]

    def _node(self, entry: Entry) -> "PartitionDirectory":
        return PartitionDirectory(entry, self._parts)

    def lookup(self, name: bytes) -> Node | None:
        try:
            entry = self._registry.get(protocol.parse_oid(name.decode(errors="replace")))
        except ProtocolError:
            return None
        return self._node(entry) if entry else None

    def make_directory(self, name: bytes, caller: Caller) -> Node:
        """Raises ProtocolError (EINVAL, ERANGE), RefusedError (EEXIST), SlosError."""
        oid = protocol.parse_oid(name.decode(errors="replace"))
        return self._node(self._registry.create(oid, Owner(caller.uid, caller.gid)))

    def remove_directory(self, name: bytes, caller: Caller) -> None:
        node = self.lookup(name)
        if not isinstance(node, PartitionDirectory):
            raise RefusedError(f"no partition {name!r}; list partitions", errno.ENOENT)
        self._registry.delete(node.entry)


# --- a partition ------------------------------------------------------------------------------


class PartitionDirectory(Directory):
    """/partitions/<oid>: its control files and its generations. For its owner alone."""

    def __init__(self, entry: Entry, parts: Parts) -> None:
        self.entry = entry
        self._parts = parts

    @property
    def identity(self) -> Hashable:
        return ("partition", self.entry.serial)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFDIR | 0o700,
            owner=self.entry.owner,
            links=3,
            time_ns=self.entry.properties.created_ns,
            is_lasting=True,
        )

    def names(self) -> Sequence[bytes]:
        own = (*self._parts, protocol.FILES)
        return [name.encode() for name in (*(file.value for file in VERBS), *own)]

    def lookup(self, name: bytes) -> Node | None:
        if self.entry.is_deleted:
            return None
        text = name.decode(errors="replace")
        if text in self._parts:
            return self._parts[text](self.entry)
        if text == protocol.FILES:
            return FilesDirectory(self.entry)
        return ControlFile(self.entry, File(text)) if text in list(File) else None


class PartDirectory(Directory):
    """A directory of a partition that is made from the store: for its owner alone."""

    is_slow = True
    part: ClassVar[str]

    def __init__(self, entry: Entry) -> None:
        self.entry = entry

    @property
    def identity(self) -> Hashable:
        return (self.part, self.entry.serial)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFDIR | 0o700,
            owner=self.entry.owner,
            links=2,
            time_ns=self.entry.changed_ns,
            has_lasting_name=True,
        )


class ControlFile(TextFile):
    """A control file: its verb says what reading and writing do."""

    is_slow = True
    is_at_hand = True

    def __init__(self, entry: Entry, file: File) -> None:
        self.entry = entry
        self.file = file
        self.watch = {
            File.CHECKPOINT: entry.epoch_watch,
            File.STATUS: entry.status_watch,
        }.get(file)

    @property
    def identity(self) -> Hashable:
        return ("control", self.entry.serial, self.file)

    @property
    def is_writable(self) -> bool:
        return VERBS[self.file].is_writable

    def attributes(self) -> Attributes:
        # As in /proc the size is 0, for the text is made when read; but `tail -f` needs a log's.
        return Attributes(
            mode=stat.S_IFREG | (0o600 if self.is_writable else 0o400),
            owner=self.entry.owner,
            size=self.entry.journal.size() if self.file is File.LOG else 0,
            time_ns=self.entry.changed_ns,
            has_lasting_name=self.file is not File.LOG,
        )

    def render(self) -> bytes:
        if self.entry.is_deleted:
            raise RefusedError(f"partition {self.entry.oid} is removed", errno.ENOENT)
        return VERBS[self.file].read(self.entry)

    def open(self) -> Handle:
        return LogHandle(self.entry) if self.file is File.LOG else super().open()


class FilesDirectory(Directory):
    """`files`: the root of a tree of files. What is in it has numbers of its own (slfs.files).

    `epoch` is that of a generation's tree; None: the live one.
    """

    is_slow = True

    def __init__(self, entry: Entry, epoch: int | None = None) -> None:
        self.files = entry.files
        self.epoch = epoch

    @property
    def identity(self) -> Hashable:
        return ("files", id(self.files), self.epoch)


# --- inode numbers ----------------------------------------------------------------------------


class InodeTable:
    """Numbers of the nodes that the kernel knows, with how often it was told of each."""

    ROOT: ClassVar[int] = 1

    def __init__(self, root: Node) -> None:
        self._numbers: dict[Hashable, int] = {root.identity: self.ROOT}
        self._nodes: dict[int, Node] = {self.ROOT: root}
        self._lookups: dict[int, int] = {self.ROOT: 1}
        self._next = itertools.count(self.ROOT + 1)

    def node(self, number: int) -> Node:
        """The node of a number that the kernel holds."""
        return self._nodes[number]

    def remember(self, node: Node) -> int:
        """The node's number, counted as told to the kernel once more."""
        number = self._numbers.get(node.identity) or next(self._next)
        self._numbers[node.identity] = number
        self._nodes[number] = node
        self._lookups[number] = self._lookups.get(number, 0) + 1
        return number

    def forget(self, number: int, count: int) -> None:
        """The kernel drops `count` of what it was told."""
        if number == self.ROOT:
            return
        self._lookups[number] -= count
        if self._lookups[number] == 0:
            del self._lookups[number]
            del self._numbers[self._nodes.pop(number).identity]

    def __len__(self) -> int:
        return len(self._nodes)
