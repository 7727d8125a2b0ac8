"""The seam to a partition's file tree: what checkpoints and restores need of it.

An epoch names one instant of the tree, kept as long as a generation's note refers to it; 0 stands for a
tree that was never used.
"""

from typing import Protocol

import msgspec

from slos.store import GenerationInfo


class FrozenTree(Protocol):
    """A tree as it was at one instant, on its way into the store."""

    def epoch(self) -> int:
        """Wait until it is kept: its epoch. Raises SlosError."""


class FileTree(Protocol):
    """The live tree of a partition. Synchronous, thread-safe; errors are SlosError."""

    def prepare(self) -> None:
        """A freeze is to come."""

    def freeze(self) -> FrozenTree:
        """The tree as it is now; called while the members stand still, and waited for by them."""

    def roll_back(self, epoch: int) -> None:
        """The tree is that of `epoch` from now on."""


class _FilesNote(msgspec.Struct, frozen=True):
    files: int = 0
    kind: str = ""


_decode = msgspec.json.Decoder(_FilesNote).decode
UNDO = "undo"  # the kind of a generation that a restore made: files alone, as they were before it


def files_epoch(info: GenerationInfo) -> int:
    """Which instant of the tree a generation holds."""
    return _decode(info.note).files if info.note else 0


def is_undo(info: GenerationInfo) -> bool:
    """Whether a restore made this generation of the files that it replaced."""
    return bool(info.note) and _decode(info.note).kind == UNDO
