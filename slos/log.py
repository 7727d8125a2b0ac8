"""The log: records appended to segments, and the truth about what of them is durable.

Knows records and segments; not what the records mean. `append` serialises on the caller's lock;
`wait_durable` and `read_record` may run in any thread beside it.

An append that fails is taken back: the head returns to where it was, the numbers (`lsn`) it used
are not used again, so that what it may have left behind it never reads as a successor.
"""

import time
from collections import deque
from collections.abc import Sequence
from threading import Condition, Lock

from xxhash import xxh3_64_intdigest

from slos.device import Device
from slos.errors import ReadOnlyStoreError, SlosError, StoreFullError, device_error
from slos.format import (
    DATA_OFFSET,
    HEADER_BYTES,
    Draft,
    Header,
    RecordType,
    decode_header,
)

_PADDING = bytes(HEADER_BYTES)
_KEPT_SYNCS = 1024  # of which the time is remembered


class Log:
    """The head of the log of one open store."""

    def __init__(self, device: Device, segment_bytes: int, mounts: int, seed: int):
        self.device = device
        self.segment_bytes = segment_bytes
        self.seed = seed
        # Epoch of each segment's present use; 0 where it is free.
        self.epochs: list[int] = []
        self.free: set[int] = set()
        self.spare: int | None = None
        self.position = 0
        self.epoch = 0
        self.lsn = 1
        self.written_lsn = 0
        self.durable_lsn = 0
        self._syncs: deque[tuple[int, int]] = deque(maxlen=_KEPT_SYNCS)  # (LSN, when)
        self.records = 0
        self.failure: SlosError | None = None
        self._next_epoch = mounts << 32
        self._lock = Lock()
        self._condition = Condition(self._lock)
        self._syncing = False

    def segment_of(self, offset: int) -> int:
        """Index of the segment that holds a file offset."""
        return (offset - DATA_OFFSET) // self.segment_bytes

    def segment_start(self, index: int) -> int:
        """File offset of a segment."""
        return DATA_OFFSET + index * self.segment_bytes

    def append(self, drafts: Sequence[Draft], *, emergency: bool = False) -> list[int]:
        """Write the records; their file offsets. `emergency` may take the spare segment.

        Raises StoreFullError, StoreDeviceError or ReadOnlyStoreError; then nothing was appended.
        """
        if self.failure is not None:
            raise ReadOnlyStoreError(
                f"the store went read-only: {self.failure}; unmount it and run slsctl fsck"
            )
        before = (self.position, self.epoch)
        opened: list[int] = []
        try:
            offsets = self._append(drafts, emergency, opened)
        except OSError as error:
            self.position, self.epoch = before
            for index in opened:
                self.epochs[index] = 0
                self.free.add(index)
            raise device_error(error, "writing to the store", self.position) from error
        self.written_lsn = self.lsn - 1
        self.records += len(drafts)
        return offsets

    def _append(self, drafts: Sequence[Draft], emergency: bool, opened: list[int]) -> list[int]:
        offsets: list[int] = []
        parts: list[bytes | memoryview] = []
        start = position = self.position
        limit = self._limit(position)
        for draft in drafts:
            size = draft.record_bytes
            if position + size > limit:
                start = position = self._roll(start, position, parts, emergency, opened)
                limit = self._limit(position)
                parts = []
            parts.append(draft.encode_header(self.epoch, self.lsn, self.seed))
            self.lsn += 1
            parts += draft.parts
            padding = size - HEADER_BYTES - draft.stored
            if padding:
                parts.append(_PADDING[:padding])
            offsets.append(position)
            position += size
        if parts:
            self.device.write(start, parts)
        self.position = position
        return offsets

    def _limit(self, position: int) -> int:
        """Where records of the segment must end: behind it there is room for the LINK."""
        index = self.segment_of(position)
        return self.segment_start(index + 1) - HEADER_BYTES

    def _roll(
        self,
        start: int,
        position: int,
        parts: list[bytes | memoryview],
        emergency: bool,
        opened: list[int],
    ) -> int:
        """Finish the segment with a LINK and begin the next one; where its records begin."""
        index = self._claim(emergency)
        opened.append(index)
        epoch = self._take_epoch()
        link = Draft(RecordType.LINK, ident=index, context=epoch)
        self.device.write(start, [*parts, link.encode_header(self.epoch, self.lsn, self.seed)])
        self.lsn += 1
        return self._begin(index, epoch)

    def _begin(self, index: int, epoch: int) -> int:
        head = Draft(RecordType.SEGMENT, ident=index, context=self.epoch)
        self.epochs[index] = epoch
        self.epoch = epoch
        offset = self.segment_start(index)
        self.device.write(offset, [head.encode_header(epoch, self.lsn, self.seed)])
        self.lsn += 1
        return offset + HEADER_BYTES

    def set_mount(self, mounts: int) -> None:
        """Epochs of segments begun from now on carry the number of the mount."""
        self._next_epoch = mounts << 32

    def _take_epoch(self) -> int:
        self._next_epoch += 1
        return self._next_epoch

    def _claim(self, emergency: bool) -> int:
        """A free segment whose blocks are reserved."""
        loose = self.free - {self.spare}
        index = min(loose) if loose else len(self.epochs)
        try:
            self.device.reserve(self.segment_start(index), self.segment_bytes)
        except OSError as error:
            full = isinstance(device_error(error, ""), StoreFullError)
            if not (emergency and full and self.spare is not None):
                raise
            index, self.spare = self.spare, None
        if index == len(self.epochs):
            self.epochs.append(0)
        self.free.discard(index)
        return index

    def keep_spare(self) -> None:
        """Hold one reserved segment back, so that deleting works on a full disk."""
        if self.spare is not None or self.failure is not None:
            return
        loose = sorted(self.free)
        index = loose[0] if loose else len(self.epochs)
        try:
            self.device.reserve(self.segment_start(index), self.segment_bytes)
        except OSError:
            return  # Full already: the next collection tries again.
        if index == len(self.epochs):
            self.epochs.append(0)
        self.free.add(index)
        self.spare = index

    def begin_fresh(self) -> None:
        """Start in a fresh segment: after a crash nothing follows what was found."""
        try:
            index = self._claim(emergency=True)
            self.position = self._begin(index, self._take_epoch())
        except OSError as error:
            raise device_error(error, "opening a segment", self.position) from error
        self.written_lsn = self.lsn - 1

    def punch(self, index: int) -> None:
        """Give the blocks of a segment back that no durable checkpoint needs."""
        start = self.segment_start(index)
        try:
            self.device.punch(start, self.segment_bytes)
        except OSError as error:
            raise device_error(error, "punching a hole", start) from error

    def set_free(self, index: int) -> None:
        """A segment may be used anew."""
        self.epochs[index] = 0
        self.free.add(index)

    def trim(self) -> None:
        """Cut free segments off the file's end."""
        while self.epochs and self.epochs[-1] == 0:
            index = len(self.epochs) - 1
            self.free.discard(index)
            if self.spare == index:
                self.spare = None
            self.epochs.pop()
        try:
            self.device.truncate(self._end())
        except OSError as error:
            raise device_error(error, "shortening the store") from error

    def _end(self) -> int:
        last = len(self.epochs) - 1
        if last == self.segment_of(self.position):
            return -(-self.position // 4096) * 4096
        return self.segment_start(last + 1)

    def wait_durable(self, lsn: int, timeout: float | None = None) -> bool:
        """Wait until records up to `lsn` last; the first waiter syncs for all.

        Raises what the sync failed with; the store takes no writes from then on.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._lock:
                if self.durable_lsn >= lsn:
                    return True
                if self.failure is not None:
                    raise self.failure
                if self._syncing:
                    left = None if deadline is None else deadline - time.monotonic()
                    if left is not None and left <= 0:
                        return False
                    self._condition.wait(left)
                    continue
                self._syncing = True
            self._sync()

    def wait_change(self, lsn: int, timeout: float | None) -> bool:
        """Wait, without syncing, until records up to `lsn` last."""
        with self._lock:
            self._condition.wait_for(
                lambda: self.durable_lsn >= lsn or self.failure is not None, timeout
            )
            if self.durable_lsn < lsn and self.failure is not None:
                raise self.failure
            return self.durable_lsn >= lsn

    def _sync(self) -> None:
        target = self.written_lsn
        failure: SlosError | None = None
        try:
            self.device.sync()
        except OSError as error:
            # The kernel reports a lost write once and marks the page clean: a second fdatasync
            # that succeeds would prove nothing (fsync(2), errors since Linux 4.13).
            failure = device_error(error, "fdatasync of the store")
            failure.__cause__ = error
        finally:
            with self._lock:
                self._syncing = False
                self.failure = self.failure or failure
                if failure is None:
                    self.durable_lsn = max(self.durable_lsn, target)
                    self._syncs.append((target, time.monotonic_ns()))
                self._condition.notify_all()

    def durable_since_ns(self, lsn: int) -> int | None:
        """When records up to `lsn` became durable, by CLOCK_MONOTONIC; None: not yet; 0: long ago."""
        with self._lock:
            if self.durable_lsn < lsn:
                return None
            found = 0
            for target, time_ns in reversed(self._syncs):
                if target < lsn:
                    return found
                found = time_ns
            return 0 if len(self._syncs) == self._syncs.maxlen else found

    def read_record(self, offset: int, size_hint: int) -> tuple[Header, memoryview] | None:
        """The record at an offset, verified; None where its bytes are wrong or cannot be read."""
        try:
            return self.need_record(offset, size_hint)
        except SlosError:
            return None

    def need_record(self, offset: int, size_hint: int) -> tuple[Header, memoryview] | None:
        """The record at an offset, verified; None where its bytes are wrong.

        Raises StoreDeviceError where they cannot be read: what stands there is not known.
        """
        data = self._read(offset, size_hint)
        header = decode_header(data, self.seed)
        if header is None:
            return None
        if len(data) < HEADER_BYTES + header.stored:
            data = self._read(offset, HEADER_BYTES + header.stored)
        return checked(header, memoryview(data))

    def _read(self, offset: int, length: int) -> bytes:
        try:
            return self.device.read(offset, length)
        except OSError as error:
            raise device_error(error, "reading the store", offset) from error


def checked(header: Header, data: memoryview) -> tuple[Header, memoryview] | None:
    """The header and its payload out of the record's bytes, if the checksum is right."""
    payload = data[HEADER_BYTES : HEADER_BYTES + header.stored]
    if len(payload) != header.stored or xxh3_64_intdigest(payload) != header.checksum:
        return None
    return header, payload
