"""Generations as directories: read-only, whole, one a checkpoint.

    generations/latest -> <n>
    generations/<n>/info report processes/<pid>/…

Everything is made from the store when looked at; nothing is kept here. All of it is slow: call it
from a worker thread. Changes are refused with EROFS, but rmdir of a generation deletes it.
"""

import errno
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import msgspec

from libsls import protocol
from libsls.protocol import ProtocolError
from slfs.access import Caller
from slfs.control import to_json
from slfs.errors import RefusedError
from slfs.inodes import Attributes, Directory, Node, Symlink, TextFile
from slfs.registry import Entry
from slos.errors import ObjectNotFoundError
from slos.store import GenerationInfo


class GenerationsDirectory(Directory):
    """generations/: one directory an epoch, and `latest`."""

    is_slow = True

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def identity(self) -> Hashable:
        return ("generations", self._entry.serial)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFDIR | 0o700,
            owner=self._entry.owner,
            links=2,
            time_ns=self._entry.changed_ns,
        )

    def names(self) -> Sequence[bytes]:
        epochs = [b"%d" % info.epoch for info in self._entry.store.generations(self._entry.oid)]
        return [*epochs, protocol.LATEST.encode()] if epochs else []

    def lookup(self, name: bytes) -> Node | None:
        if name == protocol.LATEST.encode():
            return LatestLink(self._entry) if self._entry.newest() else None
        info = self._find(name)
        return GenerationDirectory(self._entry, info) if info else None

    def _find(self, name: bytes) -> GenerationInfo | None:
        try:
            epoch = protocol.parse_epoch(name.decode(errors="replace"))
            return self._entry.store.generation(self._entry.oid, epoch)
        except (ProtocolError, ObjectNotFoundError):
            return None

    def make_directory(self, name: bytes, caller: Caller) -> Node:
        raise RefusedError("generations are made by checkpoint, not by mkdir", errno.EPERM)

    def remove_directory(self, name: bytes, caller: Caller) -> None:
        """Delete a generation. Raises RefusedError (ENOENT), SlosError."""
        info = self._find(name)
        if info is None:
            raise RefusedError(f"no generation {name!r}; list generations", errno.ENOENT)
        self._entry.store.delete_generation(self._entry.oid, info.epoch)
        self._entry.note(f"generation {info.epoch} deleted")


class LatestLink(Symlink):
    """latest -> the newest epoch."""

    is_slow = True

    def __init__(self, entry: Entry) -> None:
        self._entry = entry

    @property
    def identity(self) -> Hashable:
        return ("latest", self._entry.serial)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFLNK | 0o777,
            owner=self._entry.owner,
            size=len(self.target()),
            time_ns=self._entry.changed_ns,
        )

    def target(self) -> bytes:
        return b"%d" % self._entry.newest()


# --- one generation ---------------------------------------------------------------------------


class Within:
    """A place inside one generation: which one, and the names from its top down."""

    is_slow = True
    read_only_errno = errno.EROFS

    def __init__(self, entry: Entry, info: GenerationInfo, *place: Hashable) -> None:
        self.entry = entry
        self.info = info
        self.place = place

    @property
    def identity(self) -> Hashable:
        return ("generation", self.entry.serial, self.info.epoch, *self.place)

    def _attributes(self, mode: int, size: int = 0, *, is_lasting: bool = True) -> Attributes:
        return Attributes(
            mode=mode,
            owner=self.entry.owner,
            size=size,
            links=2 if stat.S_ISDIR(mode) else 1,
            time_ns=self.info.time_ns,
            is_lasting=is_lasting,
        )


class GenerationDirectory(Within, Directory):
    """generations/<n>/"""

    def attributes(self) -> Attributes:
        return self._attributes(stat.S_IFDIR | 0o500)

    def names(self) -> Sequence[bytes]:
        return [name.encode() for name in _FILES]

    def lookup(self, name: bytes) -> Node | None:
        make = _FILES.get(name.decode(errors="replace"))
        return make(self.entry, self.info) if make else None


class GenerationFile(Within, TextFile):
    """A text made of a generation."""

    def __init__(
        self,
        entry: Entry,
        info: GenerationInfo,
        render: Callable[[Entry, GenerationInfo], bytes],
        *place: Hashable,
    ) -> None:
        super().__init__(entry, info, *place)
        self._render = render

    def attributes(self) -> Attributes:
        # True sizes: cp, tar and rsync read as much as stat says.
        return self._attributes(stat.S_IFREG | 0o400, len(self.render()))

    def render(self) -> bytes:
        return self._render(self.entry, self.info)


def _render_info(entry: Entry, info: GenerationInfo) -> bytes:
    fields: dict[str, Any] = msgspec.to_builtins(info)
    del fields["note"]
    return to_json(fields)


def _make_info(entry: Entry, info: GenerationInfo) -> Node:
    return GenerationFile(entry, info, _render_info, "info")


_FILES: dict[str, Callable[[Entry, GenerationInfo], Node]] = {
    "info": _make_info,
}
