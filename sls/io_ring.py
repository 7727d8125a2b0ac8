"""Rings of io_uring(7) as memory: made, mapped, looked at, and brought to where another one stood.

A ring is two pieces of memory shared with the kernel, at their own offsets of one descriptor: the queues, which begin
with the counters of both, and the entries to submit. The kernel keeps counters of its own beside them, which nothing
sets; they count requests, so a new ring gets to where an old one was by as many requests for nothing (IORING_OP_NOP).
Sources: io_uring_setup(2), io_uring_enter(2), io_uring_register(2); io_uring/io_uring.c, io_uring/memmap.c.

Single-threaded. Knows no resource.
"""

import errno
import mmap
import os
import struct
from collections.abc import Mapping
from typing import Final, NamedTuple, Self

from sls import syscalls
from sls.syscalls import PAGE_BYTES

QUEUES_OFFSET: Final = 0
COMPLETIONS_OFFSET: Final = 0x8000000  # the same memory, as older programs map it
ENTRIES_OFFSET: Final = 0x10000000
_ENTRY_BYTES, _COMPLETION_BYTES, _INDEX_BYTES = 64, 16, 4
_SETUP_CQSIZE, _SETUP_NO_SQARRAY = 1 << 3, 1 << 16  # the second: Linux 6.6
_REGISTER_EVENTFD, _REGISTER_PROBE = 4, 8
_NO_DESCRIPTOR: Final = struct.pack("=i", -1)
_PARAMS_BYTES: Final = 120
_PARAMS = struct.Struct("=5I")
_SUBMISSION_OFFSETS, _COMPLETION_OFFSETS = 40, 80
# where the words of the header are, as offsets that io_uring_setup(2) tells; of the index array apart
_HEADER: Final = (0, 4, 16, 24, 36, 32), (8, 12, 20, 28, 44, 64)
_SQ_TAIL, _CQ_HEAD, _CQ_TAIL = 1, 2, 3  # words; the first is the head of what is submitted
_QUEUES_BYTES: Final = 64


class Shape(NamedTuple):
    """What a ring is made with. `has_indices`: entries are submitted by way of an array of their numbers."""

    submissions: int
    completions: int
    has_indices: bool

    @property
    def queues_bytes(self) -> int:
        """Length of the mapping at QUEUES_OFFSET."""
        indices = self.submissions * _INDEX_BYTES if self.has_indices else 0
        return _whole_pages(_QUEUES_BYTES + self.completions * _COMPLETION_BYTES + indices)

    @property
    def entries_bytes(self) -> int:
        """Length of the mapping at ENTRIES_OFFSET."""
        return _whole_pages(self.submissions * _ENTRY_BYTES)

    def agrees_with(self, lengths: Mapping[int, int]) -> bool:
        """Whether mappings (offset → length in bytes) can be of such a ring: the kernel takes no other length."""
        own = {
            QUEUES_OFFSET: self.queues_bytes,
            COMPLETIONS_OFFSET: self.queues_bytes,
            ENTRIES_OFFSET: self.entries_bytes,
        }
        return all(own.get(offset) == length for offset, length in lengths.items())


def make(shape: Shape) -> int:
    """A descriptor of a new ring. OSError: EPERM where kernel.io_uring_disabled says so, ENOTSUP of another layout."""
    params = bytearray(_PARAMS_BYTES)
    flags = _SETUP_CQSIZE | (0 if shape.has_indices else _SETUP_NO_SQARRAY)
    _PARAMS.pack_into(params, 0, 0, shape.completions, flags, 0, 0)
    fd = syscalls.syscall_on("io_uring_setup", shape.submissions, params)
    told = tuple(
        struct.unpack_from("=6I", params, at) for at in (_SUBMISSION_OFFSETS, _COMPLETION_OFFSETS)
    )
    if told != _HEADER:
        os.close(fd)
        raise OSError(errno.ENOTSUP, "this kernel lays its rings out in another way")
    return fd


def is_of_one_task(fd: int) -> bool:
    """Whether only the task that made the ring may use it (IORING_SETUP_SINGLE_ISSUER)."""
    try:
        syscalls.syscall_on("io_uring_register", fd, _REGISTER_PROBE, bytearray(16), 0)
    except FileExistsError:
        return True
    return False


def tells_eventfd(fd: int) -> bool:
    """Whether an eventfd is registered: another one is refused before it is looked at."""
    try:
        syscalls.syscall_on("io_uring_register", fd, _REGISTER_EVENTFD, _NO_DESCRIPTOR, 1)
    except OSError as error:
        return error.errno == errno.EBUSY
    raise AssertionError("-1 is no eventfd")


class Ring:
    """A ring mapped into this process, for a `with` block."""

    def __init__(self, fd: int, shape: Shape) -> None:
        self._fd = fd
        self.shape = shape

    def __enter__(self) -> Self:
        self._queues = mmap.mmap(self._fd, self.shape.queues_bytes, offset=QUEUES_OFFSET)
        self._entries = mmap.mmap(self._fd, self.shape.entries_bytes, offset=ENTRIES_OFFSET)
        return self

    def __exit__(self, *_: object) -> None:
        self._queues.close()
        self._entries.close()

    def read_into(self, offset: int, view: memoryview) -> None:
        """Fill `view` from an offset of the descriptor."""
        memory, start = self._place(offset)
        view[:] = memory[start : start + len(view)]

    def write(self, offset: int, data: memoryview) -> None:
        """Put bytes at an offset of the descriptor."""
        memory, start = self._place(offset)
        memory[start : start + len(data)] = bytes(data)

    def _place(self, offset: int) -> tuple[mmap.mmap, int]:
        if offset >= ENTRIES_OFFSET:
            return self._entries, offset - ENTRIES_OFFSET
        return self._queues, offset

    def advance(self, count: int) -> None:
        """Submit and complete `count` requests for nothing; some 0.2 µs each."""
        self.number_indices()
        with memoryview(self._queues) as queues, queues.cast("I") as words:
            while count:
                step = min(count, self.shape.submissions, self.shape.completions)
                words[_SQ_TAIL] = (words[_SQ_TAIL] + step) & 0xFFFFFFFF
                done = syscalls.syscall("io_uring_enter", self._fd, step, 0, 0, 0, 0)
                assert done == step, f"{done} of {step} requests for nothing were taken"
                words[_CQ_HEAD] = words[_CQ_TAIL]
                count -= step

    def number_indices(self) -> None:
        """Have each index lead to its own entry, as if there were none."""
        if self.shape.has_indices:
            count = self.shape.submissions
            self._queues[self._indices()] = struct.pack(f"={count}I", *range(count))

    def _indices(self) -> slice:
        start = _QUEUES_BYTES + self.shape.completions * _COMPLETION_BYTES
        return slice(start, start + self.shape.submissions * _INDEX_BYTES)

    def has_indices(self) -> bool | None:
        """What its memory tells of `Shape.has_indices`; None where it looks the same in both cases.

        A ring with indices has a zero in each until it is told otherwise: whoever has used an entry that no index
        leads to has no indices.
        """
        if any(self._queues[self._indices()]):
            return True
        if any(self._entries[_ENTRY_BYTES : self.shape.submissions * _ENTRY_BYTES]):
            return False
        has_come_round = struct.unpack_from("=I", self._queues)[0] > 1
        return True if has_come_round or self.shape.submissions == 1 else None


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
