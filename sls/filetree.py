"""The seam to a partition's file tree: what checkpoints and restores need of it.

An epoch names one instant of the tree, kept as long as a generation's note refers to it; 0 stands for a
tree that was never used.
"""

import socket
import threading
from struct import Struct
from typing import Final, Protocol

import msgspec

from slos.errors import SlosError
from slos.store import GenerationInfo


class FrozenTree(Protocol):
    """A tree as it was at one instant, on its way into the store."""

    def epoch(self) -> int:
        """Wait until it is kept: its epoch. Raises SlosError."""


class FileTree(Protocol):
    """The live tree of a partition. Synchronous, thread-safe; errors are SlosError."""

    @property
    def is_used(self) -> bool:
        """Whether there ever was anything in it."""

    def prepare(self) -> None:
        """A freeze is to come."""

    def freeze(self) -> FrozenTree:
        """The tree as it is now; called while the members stand still, and waited for by them."""

    def roll_back(self, epoch: int) -> None:
        """The tree is that of `epoch` from now on; when it raises, it is as it was."""


class _FilesNote(msgspec.Struct, frozen=True):
    files: int = 0
    kind: str = ""


_decode = msgspec.json.Decoder(_FilesNote).decode
UNDO = "undo"  # the kind of a generation that a restore made: files alone, as they were before it


def files_epoch(info: GenerationInfo) -> int:
    """Which instant of the tree a generation holds."""
    return _decode(info.note).files if info.note else 0


def undo_note(epoch: int) -> bytes:
    """The note of a generation that a restore makes of the files it replaces."""
    return msgspec.json.encode(_FilesNote(files=epoch, kind=UNDO))


def is_undo(info: GenerationInfo) -> bool:
    """Whether a restore made this generation of the files that it replaced."""
    return bool(info.note) and _decode(info.note).kind == UNDO


# --- while the members stand still ---

SERIAL: Final = Struct("<q")  # of a capture: what a worker sends through its gate
_KEPT: Final = 4


class Gate:
    """Freezes the tree for a worker that holds the members still: a thread that does nothing else.

    The worker sends a capture's serial and waits for one byte.
    """

    def __init__(self, tree: FileTree, ours: socket.socket) -> None:
        self._tree = tree
        self._socket = ours
        self._frozen: dict[int, FrozenTree] = {}
        self._thread = threading.Thread(target=self._serve, name="slfs-gate", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        try:
            while request := self._receive():
                (serial,) = SERIAL.unpack(request)
                try:
                    self._frozen[serial] = self._tree.freeze()
                except (SlosError, OSError):
                    pass  # the commit of this capture will meet it again
                self._answer()
                while len(self._frozen) > _KEPT:  # of captures that failed
                    del self._frozen[next(iter(self._frozen))]
        finally:
            self._shut()  # whatever happened: the members of who waits for an answer stand still

    def _receive(self) -> bytes:
        try:
            return self._socket.recv(SERIAL.size)
        except OSError:
            return b""

    def _answer(self) -> None:
        try:
            self._socket.send(b".")
        except OSError:
            return  # the worker has ended

    def _shut(self) -> None:
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            return  # the worker has ended

    def epoch(self, serial: int) -> int:
        """Which instant of the tree belongs to a capture; now, where it did not ask. Raises SlosError."""
        frozen = self._frozen.pop(serial, None)
        if frozen is None:
            frozen = self._tree.freeze()
        return frozen.epoch()

    def close(self) -> None:
        """The worker has ended."""
        self._socket.close()
        self._thread.join()
