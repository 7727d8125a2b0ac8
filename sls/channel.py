"""Messages between a partition and its worker process: msgpack with a length before it, descriptors beside it."""

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, Generic, TypeVar

import msgspec

_HEAD = struct.Struct("=II")  # bytes of the message, number of descriptors
_MOST_DESCRIPTORS = 4


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all messages."""


class MemberId(msgspec.Struct, frozen=True, array_like=True):
    """A process: numbers are used again, start times are not."""

    pid: int
    start_time: int


# --- to the worker --------------------------------------------------------------------------------------------------


class TakeCapture(Message, frozen=True, tag="take-capture"):
    """Capture once. `track`: watch pages for a delta later. `with_files`: freeze the file tree with it.

    `kill`: the members stand still until it is a generation, and end then.
    """

    serial: int
    members: tuple[MemberId, ...]
    full: bool
    track: bool
    with_files: bool = False
    kill: bool = False


class Part(Message, frozen=True, tag="part"):
    """The members are about to end, to come back from this image."""

    serial: int
    image: bytes


class Continue(Message, frozen=True, tag="continue"):
    """Capture every `period_ms` from now on; 0 ends it. Answered by Settled: no capture of before comes after that."""

    serial: int
    period_ms: int
    members: tuple[MemberId, ...]
    full: bool


class Release(Message, frozen=True, tag="release"):
    """The buffer of capture `serial` is free; not `kept`: it did not become a generation.

    `with_files`: the next periodic capture freezes the file tree.
    """

    serial: int
    kept: bool
    with_files: bool = False


class Kept(Message, frozen=True, tag="kept"):
    """Answer to KeepRunning: the pages are in the store. `error`: why not, in words, of the class `kind`."""

    kind: str = ""
    error: str = ""
    errno: int = 0


class Rebase(Message, frozen=True, tag="rebase"):
    """The generation that a delta would build on is deleted: the next capture is full."""


class TakeRestore(Message, frozen=True, tag="take-restore"):
    """Bring the image back; the terminal's descriptors come beside the message, or none.

    `uid`, `gid`: with whose rights its files are opened.
    """

    serial: int
    image: bytes
    stopped: bool
    uid: int = 0
    gid: int = 0


class Ranges(Message, frozen=True, tag="ranges"):
    """Answer to RangesWanted."""

    ranges: tuple[tuple[int, int], ...]


class BytesReady(Message, frozen=True, tag="bytes-ready"):
    """Answer to BytesWanted: they are in the buffer. `error`: why not, in words."""

    error: str = ""
    errno: int = 0


# --- from the worker ------------------------------------------------------------------------------------------------


class CapturedBytes(msgspec.Struct, frozen=True, array_like=True):
    """One object: `ranges` lie packed in the buffer from `offset`; `gone` are holes now. Arrays of 64-bit pairs."""

    object_id: int
    offset: int
    ranges: bytes
    gone: bytes


class KeepRunning(Message, frozen=True, tag="keep-running"):
    """Keep memory of `pid`, which runs, as part of the capture `serial`: `what`, its offset without a meaning."""

    serial: int
    base: int
    pid: int
    what: CapturedBytes


class Captured(Message, frozen=True, tag="captured"):
    """A capture; its bytes are in the memfd beside the message until Release. serial < 0: a periodic one.

    `started_ns`: when it began, by CLOCK_MONOTONIC; `stages_ns`: what followed, in order. `is_continued`: it goes on
    from what KeepRunning has kept. `is_last_word`: the members wait for it to be durable, and end then.
    """

    serial: int
    base: int  # serial of the capture that a delta builds on, 0 for a full one
    image: bytes
    objects: tuple[CapturedBytes, ...]
    pids: tuple[int, ...]
    losses: tuple[str, ...]
    stop_ns: int
    stages_ns: dict[str, int]
    pages: int
    started_ns: int
    missed: int = 0
    is_continued: bool = False
    is_last_word: bool = False


class Failed(Message, frozen=True, tag="failed"):
    """The request `serial` failed; 0: a periodic capture, and no more come, unless `goes_on`."""

    serial: int
    kind: str
    text: str
    errno: int
    goes_on: bool = False


class RangesWanted(Message, frozen=True, tag="ranges-wanted"):
    """Which ranges of an object hold data?"""

    object_id: int


class BytesWanted(Message, frozen=True, tag="bytes-wanted"):
    """Put these ranges of an object, packed, into the memfd beside the message, from `offset` on."""

    object_id: int
    ranges: tuple[tuple[int, int], ...]
    offset: int = 0


class RestoreDone(Message, frozen=True, tag="restore-done"):
    """What came back."""

    serial: int
    pids: tuple[int, ...]
    roots: tuple[int, ...]
    notes: tuple[str, ...]
    stages_ns: dict[str, int]


class Settled(Message, frozen=True, tag="settled"):
    """The Continue `serial` holds, with its `period_ms`."""

    serial: int
    period_ms: int


class Parted(Message, frozen=True, tag="parted"):
    """The members may end."""

    serial: int


class Exited(Message, frozen=True, tag="exited"):
    """A restored process ended with this wait(2) status."""

    pid: int
    status: int


ToWorker = (
    TakeCapture | Part | Continue | Release | Rebase | TakeRestore | Ranges | BytesReady | Kept
)
FromWorker = (
    KeepRunning
    | Captured
    | Failed
    | RangesWanted
    | BytesWanted
    | RestoreDone
    | Settled
    | Parted
    | Exited
)

M = TypeVar("M")


class Channel(Generic[M]):
    """One end; `incoming` is the union of what the other end says. One thread sends at a time, one receives."""

    def __init__(self, connection: socket.socket, incoming: Any) -> None:
        self._socket = connection
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(incoming)

    def fileno(self) -> int:
        return self._socket.fileno()

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send; OSError (EPIPE) when the other end is gone."""
        data = self._encoder.encode(message)
        head = _HEAD.pack(len(data), len(descriptors))
        socket.send_fds(self._socket, [head], list(descriptors))
        self._socket.sendall(data)

    def receive(self) -> tuple[M, list[int]]:
        """The next message and its descriptors (close-on-exec, the caller's to close); EOFError at the end."""
        head, descriptors, _, _ = socket.recv_fds(
            self._socket, _HEAD.size, _MOST_DESCRIPTORS, socket.MSG_CMSG_CLOEXEC
        )
        with ExitStack() as unwanted:  # of a message that is cut off
            for fd in descriptors:
                unwanted.callback(os.close, fd)
            if len(head) < _HEAD.size:
                head += self._exactly(_HEAD.size - len(head))
            length, _ = _HEAD.unpack(head)
            message = self._decoder.decode(self._exactly(length))
            unwanted.pop_all()
        return message, descriptors

    def _exactly(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            piece = self._socket.recv(min(length - len(data), 1 << 20))
            if not piece:
                raise EOFError("the other end is gone")
            data += piece
        return bytes(data)

    def shut(self) -> None:
        """Tell the other end that nothing more comes; it ends when it has answered."""
        self._shut(socket.SHUT_WR)

    def shut_both(self) -> None:
        """Nothing passes any more, either way; who waits for that at either end is told."""
        self._shut(socket.SHUT_RDWR)

    def _shut(self, ways: int) -> None:
        try:
            self._socket.shutdown(ways)
        except OSError:
            return  # the other end has ended already

    def close(self) -> None:
        self._socket.close()
