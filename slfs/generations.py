"""Generations as directories: read-only, whole, one a checkpoint.

    generations/latest -> <n>
    generations/<n>/info report diff processes/<pid>/…
    generations/<a>..<b>        what differs; not listed

Everything is made from the store when looked at; nothing is kept here. All of it is slow: call it
from a worker thread. Changes are refused with EROFS, but rmdir of a generation deletes it.
"""

import errno
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

import msgspec

from libsls import protocol
from libsls.protocol import ProtocolError
from slfs.access import Caller
from slfs.control import to_json
from slfs.differences import render_diff, render_parent_diff
from slfs.errors import RefusedError
from slfs.inodes import (
    Attributes,
    Directory,
    FilesDirectory,
    Node,
    PartDirectory,
    Symlink,
    TextFile,
)
from slfs.journal import format_time
from slfs.processes import ProcessesDirectory, Within, images
from slfs.registry import Entry
from slos.errors import ObjectNotFoundError
from slos.store import GenerationInfo
from sls.errors import ImageError
from sls.filetree import files_epoch


class GenerationsDirectory(PartDirectory):
    """generations/: one directory an epoch, and `latest`."""

    part = protocol.GENERATIONS

    def names(self) -> Sequence[bytes]:
        epochs = [b"%d" % info.epoch for info in self.entry.store.generations(self.entry.oid)]
        return [*epochs, protocol.LATEST.encode()] if epochs else []

    def lookup(self, name: bytes) -> Node | None:
        if name == protocol.LATEST.encode():
            return LatestLink(self.entry) if self.entry.newest() else None
        if b".." in name:
            return self._comparison(name)
        info = self._find(name)
        return GenerationDirectory(self.entry, info) if info else None

    def _comparison(self, name: bytes) -> Node | None:
        """`<a>..<b>`; `latest` for either."""
        newest = b"%d" % self.entry.newest()
        names = [newest if one == protocol.LATEST.encode() else one for one in name.split(b"..")]
        found = [self._find(one) for one in names]
        if len(found) != 2 or found[0] is None or found[1] is None:
            return None
        old, new = found[0], found[1]
        return DiffFile(self.entry, new, lambda entry, info: render_diff(entry, old, info), name)

    def _find(self, name: bytes) -> GenerationInfo | None:
        try:
            epoch = protocol.parse_epoch(name.decode(errors="replace"))
            return self.entry.store.generation(self.entry.oid, epoch)
        except (ProtocolError, ObjectNotFoundError):
            return None

    def make_directory(self, name: bytes, caller: Caller) -> Node:
        raise RefusedError("generations are made by checkpoint, not by mkdir", errno.EPERM)

    def remove_directory(self, name: bytes, caller: Caller) -> None:
        """Delete a generation. Raises RefusedError (ENOENT), SlosError."""
        info = self._find(name)
        if info is None:
            raise RefusedError(f"no generation {name!r}; list generations", errno.ENOENT)
        events = self.entry.events
        try:
            self.entry.delete_generation(info.epoch)
        except RefusedError as error:
            self.entry.note_error(str(error), since=events)
            raise
        self.entry.note(f"generation {info.epoch} deleted")


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


class GenerationDirectory(Within, Directory):
    """generations/<n>/"""

    def attributes(self) -> Attributes:
        return self.attributes_of(stat.S_IFDIR | 0o700)

    def names(self) -> Sequence[bytes]:
        return [name.encode() for name in _PARTS]

    def lookup(self, name: bytes) -> Node | None:
        make = _PARTS.get(name.decode(errors="replace"))
        return make(self.entry, self.info) if make else None


Renderer = Callable[[Entry, GenerationInfo], bytes]


class GenerationFile(Within, TextFile):
    """A text made of a generation."""

    def __init__(
        self,
        entry: Entry,
        info: GenerationInfo,
        render: Renderer,
        *place: Hashable,
    ) -> None:
        super().__init__(entry, info, *place)
        self._render = render

    def attributes(self) -> Attributes:
        # True sizes: cp, tar and rsync read as much as stat says. A name may still change.
        return self.attributes_of(stat.S_IFREG | 0o600, len(self.render()), is_lasting=False)

    def render(self) -> bytes:
        return self._render(self.entry, self.info)


class DiffFile(GenerationFile):
    """A text that is slow to make: a listing does not ask for its size."""

    def listed_attributes(self) -> Attributes:
        return self.attributes_of(stat.S_IFREG | 0o600, is_lasting=False)


def render_info(entry: Entry, info: GenerationInfo) -> bytes:
    """`info`: JSON of what the store and the capture tell; the capture's part is the note."""
    fields: dict[str, Any] = msgspec.to_builtins(info)
    note = fields.pop("note")
    del fields["durable"]  # the one thing that changes; `status` tells it
    fields["time"] = format_time(info.time_ns)
    fields["captured"] = msgspec.json.decode(info.note) if note else {}
    try:
        fields["processes"] = [
            {"pid": one.pid, "ppid": one.ppid, "comm": one.comm.decode(errors="replace")}
            for one in images.get(entry, info.epoch).processes
        ]
    except (ImageError, ObjectNotFoundError) as error:
        fields["processes"] = []
        fields["image_error"] = str(error)
    return to_json(fields)


def render_report(entry: Entry, info: GenerationInfo) -> bytes:
    """`report`: what was captured in a lesser form, a line each; empty when nothing was."""
    losses = images.get(entry, info.epoch).losses
    return "".join(f"pid {one.pid}: {one.resource}: {one.detail}\n" for one in losses).encode()


def _make_file(name: str, render: Renderer) -> Callable[[Entry, GenerationInfo], Node]:
    return lambda entry, info: GenerationFile(entry, info, render, name)


_PARTS: Final[dict[str, Callable[[Entry, GenerationInfo], Node]]] = {
    "info": _make_file("info", render_info),
    "report": _make_file("report", render_report),
    "diff": lambda entry, info: DiffFile(entry, info, render_parent_diff, "diff"),
    "processes": ProcessesDirectory,
    protocol.FILES: lambda entry, info: FilesDirectory(entry, files_epoch(info)),
}
