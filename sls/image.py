"""The image of a generation: what the tasks were, as records. Contents of memory are beside it, by object number.

Encoded as magic, format version, msgpack. A new field has a default; a tag or name is never used again. Pure.
"""

import struct
from typing import Final

import msgspec

from sls.errors import ImageError
from sls.resources import (
    AnyFileRecord,
    AnyProcessRecord,
    AnyThreadRecord,
    Content,
    Loss,
    MemoryRecord,
    NamespacesRecord,
    Record,
    SignalActionsRecord,
    ThreadSignalsRecord,
    ThreadStateRecord,
    signal_number,
)

VERSION: Final = 1
MANIFEST_OBJECT: Final = 1  # object of a generation that holds the encoded image
FIRST_MEMORY_OBJECT: Final = 16
_HEAD = struct.Struct("=4sH")
_MAGIC: Final = b"SLSI"


class ThreadImage(Record, frozen=True):
    """One thread. `inside`: what pid namespaces below the restorer's call it, the outermost first."""

    tid: int
    states: tuple[AnyThreadRecord, ...]
    inside: tuple[int, ...] = ()

    @property
    def state(self) -> ThreadStateRecord:
        return next(one for one in self.states if isinstance(one, ThreadStateRecord))


class Inside(Record, frozen=True):
    """What pid namespaces below the restorer's call a process, its group and session, the outermost first.

    0: it is of another namespace.
    """

    pid: tuple[int, ...]
    pgid: tuple[int, ...]
    sid: tuple[int, ...]


class DescriptorImage(Record, frozen=True):
    """One entry of a descriptor table; `target` and `info`: what /proc/<pid>/fd and fdinfo showed."""

    fd: int
    file_id: int
    close_on_exec: bool
    target: bytes
    info: bytes


class ProcessImage(Record, frozen=True):
    """One process; its leader is the first thread.

    A zombie has an `exit_status` (as wait(2) gives it) and nothing else. `exit_signal`: what its parent is told with.
    `is_stopped`: it stands still until SIGCONT. A leader that has ended is not among the threads.
    """

    pid: int
    ppid: int
    pgid: int
    sid: int
    comm: bytes
    states: tuple[AnyProcessRecord, ...] = ()
    threads: tuple[ThreadImage, ...] = ()
    descriptors: tuple[DescriptorImage, ...] = ()
    exit_status: int | None = None
    exit_signal: int = 17
    is_stopped: bool = False
    inside: Inside | None = None

    @property
    def is_init(self) -> bool:
        """Whether it is the first of a pid namespace."""
        return self.inside is not None and self.inside.pid[-1] == 1

    @property
    def pid_namespaces(self) -> NamespacesRecord:
        """Which pid namespaces it and its children to come are of; a zombie does not tell."""
        found = (one for one in self.states if isinstance(one, NamespacesRecord))
        return next(found, NamespacesRecord())

    def queued_signals(self) -> frozenset[int]:
        """Numbers of the signals that wait in any of its queues."""
        states = [*self.states, *(state for thread in self.threads for state in thread.states)]
        kinds = (SignalActionsRecord, ThreadSignalsRecord)
        return frozenset(
            signal_number(info) for one in states if isinstance(one, kinds) for info in one.queue
        )

    @property
    def memory(self) -> MemoryRecord:
        return next(one for one in self.states if isinstance(one, MemoryRecord))


class Image(Record, frozen=True):
    """Everything but the bytes of memory. `processes`: parents before children."""

    time_ns: int
    boot_id: str
    kernel: str
    processes: tuple[ProcessImage, ...]
    files: tuple[AnyFileRecord, ...]
    contents: tuple[Content, ...] = ()
    losses: tuple[Loss, ...] = ()

    def process(self, pid: int) -> ProcessImage:
        """The process of that number; KeyError."""
        for one in self.processes:
            if one.pid == pid:
                return one
        raise KeyError(pid)

    def roots(self) -> list[ProcessImage]:
        """Processes whose parent is not in the image."""
        inside = {one.pid for one in self.processes}
        return [one for one in self.processes if one.ppid not in inside]


_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Image)


def encode(image: Image) -> bytes:
    """The stored form."""
    return _HEAD.pack(_MAGIC, VERSION) + _ENCODER.encode(image)


def decode(data: bytes) -> Image:
    """Inverse of `encode`. ImageError for another version (both are named) or for what is no image."""
    if len(data) < _HEAD.size or data[:4] != _MAGIC:
        raise ImageError("this generation holds no process image; choose another generation")
    _, version = _HEAD.unpack_from(data)
    if version != VERSION:
        raise ImageError(
            f"the image has version {version}, this program reads {VERSION}; use the program that wrote it"
        )
    try:
        return _DECODER.decode(data[_HEAD.size :])
    except (msgspec.DecodeError, ValueError) as error:
        raise ImageError(f"the image is damaged ({error}); choose another generation") from error
