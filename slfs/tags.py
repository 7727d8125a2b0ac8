"""tags/: names of generations, as symbolic links that people make and remove with ln and rm.

    ln -s ../generations/3 tags/good

A tag pins its generation: retention leaves it alone, rmdir is EBUSY. Links lead nowhere else (EINVAL), so nobody who
follows one, root included, leaves the partition. Durable on return.
"""

import errno
import stat
from collections.abc import Callable, Hashable, Sequence
from typing import Final

from libsls import protocol
from libsls.protocol import ProtocolError
from slfs.access import Caller
from slfs.errors import EXPECTED_ERRORS, RefusedError
from slfs.inodes import Attributes, Node, PartDirectory, Symlink
from slfs.registry import Entry

RENAME_NOREPLACE: Final = 1  # renameat2(2)
RENAME_EXCHANGE: Final = 2

Tags = dict[str, int]


class TagsDirectory(PartDirectory):
    """tags/: one link a name."""

    part = protocol.TAGS

    def names(self) -> Sequence[bytes]:
        return [name.encode() for name in self.entry.tags]

    def lookup(self, name: bytes) -> Node | None:
        try:
            text = name.decode()
        except UnicodeDecodeError:
            return None
        epoch = self.entry.tags.get(text)
        return None if epoch is None else TagLink(self.entry, text, epoch)

    def make_symlink(self, name: bytes, target: bytes, caller: Caller) -> Node:
        """Raises RefusedError (EEXIST), ProtocolError (EINVAL), ObjectNotFoundError (ENOENT)."""
        text, epoch = self._parsed(name, target)

        def add(tags: Tags) -> Tags:
            if text in tags:
                raise RefusedError(f"tag {text} is there; remove it first", errno.EEXIST)
            return {**tags, text: epoch}

        self._change(add)
        self.entry.note(f"generation {epoch} tagged {text}")
        return TagLink(self.entry, text, epoch)

    def _parsed(self, name: bytes, target: bytes) -> tuple[str, int]:
        events = self.entry.events
        try:
            text = protocol.parse_name(protocol.parse_text(name))
            return text, protocol.parse_tag_target(target)
        except ProtocolError as error:
            self.entry.note_error(f"tags: {error}", since=events)
            raise

    def remove_file(self, name: bytes, caller: Caller) -> None:
        text = name.decode(errors="replace")

        def remove(tags: Tags) -> Tags:
            self._must_have(tags, text)
            del tags[text]
            return tags

        self._change(remove)
        self.entry.note(f"tag {text} removed")

    def rename_within(self, name: bytes, new_name: bytes, flags: int, caller: Caller) -> None:
        old, new = name.decode(errors="replace"), protocol.parse_name(protocol.parse_text(new_name))

        def rename(tags: Tags) -> Tags:
            self._must_have(tags, old)
            if flags & RENAME_EXCHANGE:
                self._must_have(tags, new)
                tags[old], tags[new] = tags[new], tags[old]
                return tags
            if flags & RENAME_NOREPLACE and new in tags:
                raise RefusedError(f"tag {new} is there", errno.EEXIST)
            epoch = tags.pop(old)
            return {**tags, new: epoch}

        self._change(rename)
        self.entry.note(f"tag {old} renamed to {new}")

    @staticmethod
    def _must_have(tags: Tags, name: str) -> None:
        if name not in tags:
            raise RefusedError(f"no tag {name}; list tags", errno.ENOENT)

    def _change(self, change: Callable[[Tags], Tags]) -> None:
        events = self.entry.events
        try:
            self.entry.change_tags(change)
        except EXPECTED_ERRORS as error:
            self.entry.note_error(f"tags: {error}", since=events)
            raise


class TagLink(Symlink):
    """tags/NAME -> ../generations/<n>."""

    def __init__(self, entry: Entry, name: str, epoch: int) -> None:
        self._entry = entry
        self._name = name
        self._epoch = epoch

    @property
    def identity(self) -> Hashable:
        return ("tag", self._entry.serial, self._name)

    def attributes(self) -> Attributes:
        return Attributes(
            mode=stat.S_IFLNK | 0o777,
            owner=self._entry.owner,
            size=len(self.target()),
            time_ns=self._entry.changed_ns,
        )

    def target(self) -> bytes:
        return f"../{protocol.GENERATIONS}/{self._epoch}".encode()
