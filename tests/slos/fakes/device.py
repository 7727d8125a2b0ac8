"""Devices in memory: one that remembers every write, one that fails on purpose."""

import errno
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

SECTOR = 512


class MemoryDevice:
    """A file in memory. Reads beyond the end are short, gaps are zeros."""

    def __init__(self, image: bytes | bytearray = b""):
        self.image = bytearray(image)
        self.closed = False

    def read(self, offset: int, length: int) -> bytes:
        return bytes(self.image[offset : offset + length])

    def read_into(self, offset: int, buffer: memoryview) -> int:
        data = self.read(offset, len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def is_cached(self, offset: int) -> bool:
        return offset // 4096 % 2 == 0

    def expect(self, offset: int, length: int) -> None:
        assert offset >= 0
        assert length > 0

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        apply_write(self.image, offset, b"".join(parts))

    def sync(self) -> None:
        assert not self.closed

    def reserve(self, offset: int, length: int) -> None:
        if len(self.image) < offset + length:
            self.image.extend(bytes(offset + length - len(self.image)))

    def punch(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.image))
        if offset < end:
            self.image[offset:end] = bytes(end - offset)

    def truncate(self, size: int) -> None:
        del self.image[size:]
        self.image.extend(bytes(size - len(self.image)))

    def size(self) -> int:
        return len(self.image)

    def allocated(self) -> int:
        return len(self.image)

    def close(self) -> None:
        self.closed = True


def apply_write(image: bytearray, offset: int, data: bytes) -> None:
    if len(image) < offset:
        image.extend(bytes(offset - len(image)))
    image[offset : offset + len(data)] = data


@dataclass(frozen=True)
class Operation:
    """One call on a device: `kind` is write, sync, reserve, punch or truncate."""

    kind: str
    offset: int = 0
    length: int = 0
    data: bytes = b""

    def apply(self, image: bytearray) -> None:
        device = MemoryDevice()
        device.image = image
        if self.kind == "write":
            apply_write(image, self.offset, self.data)
        elif self.kind == "reserve":
            device.reserve(self.offset, self.length)
        elif self.kind == "punch":
            device.punch(self.offset, self.length)
        elif self.kind == "truncate":
            device.truncate(self.length)


class RecordingDevice(MemoryDevice):
    """Remembers what was done to it, in order."""

    def __init__(self, image: bytes | bytearray = b""):
        super().__init__(image)
        self.first_image = bytes(image)
        self.operations: list[Operation] = []

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        data = b"".join(parts)
        self.operations.append(Operation("write", offset, len(data), data))
        super().write(offset, parts)

    def sync(self) -> None:
        self.operations.append(Operation("sync"))

    def reserve(self, offset: int, length: int) -> None:
        self.operations.append(Operation("reserve", offset, length))
        super().reserve(offset, length)

    def punch(self, offset: int, length: int) -> None:
        self.operations.append(Operation("punch", offset, length))
        super().punch(offset, length)

    def truncate(self, size: int) -> None:
        self.operations.append(Operation("truncate", 0, size))
        super().truncate(size)


def crash_images(
    device: RecordingDevice,
    chance: random.Random,
    orders: int,
    *,
    part: int = 0,
    parts: int = 1,
) -> Iterator[tuple[int, str, bytearray]]:
    """(operations done, how the rest was lost, image) for a power cut after every operation.

    Since the last sync: all writes kept, all lost, the last one torn at a sector, and `orders`
    random choices of sectors that made it. Of the operations every `parts`th, from `part` on.
    """
    durable = bytearray(device.first_image)
    waiting: list[Operation] = []
    for done, operation in enumerate([Operation("start"), *device.operations]):
        if operation.kind == "sync":
            for other in waiting:
                other.apply(durable)
            waiting = []
            continue
        waiting.append(operation)
        if done % parts != part:
            continue
        yield done, "kept", _after(durable, waiting)
        yield done, "lost", bytearray(durable)
        if operation.kind == "write" and len(operation.data) > SECTOR:
            yield done, "torn", _after(durable, [*waiting[:-1], _torn(operation, chance)])
        for _ in range(orders):
            yield done, "reordered", _after(durable, _scattered(waiting, chance))


def _after(image: bytearray, operations: Sequence[Operation]) -> bytearray:
    copy = bytearray(image)
    for operation in operations:
        operation.apply(copy)
    return copy


def _torn(operation: Operation, chance: random.Random) -> Operation:
    sectors = len(operation.data) // SECTOR
    data = operation.data[: chance.randrange(1, sectors + 1) * SECTOR]
    return Operation("write", operation.offset, len(data), data)


def _scattered(operations: Sequence[Operation], chance: random.Random) -> list[Operation]:
    """Some of the sectors of some of the operations, in any order."""
    parts: list[Operation] = []
    share = chance.choice([0.1, 0.5, 0.9])
    for operation in operations:
        if operation.kind != "write":
            parts += [operation] if chance.random() < 0.5 else []
            continue
        # Sectors are those of the disk, so a write's first and last part may be short.
        start = 0
        while start < len(operation.data):
            stop = min(len(operation.data), start + SECTOR - (operation.offset + start) % SECTOR)
            if chance.random() < share:
                data = operation.data[start:stop]
                parts.append(Operation("write", operation.offset + start, len(data), data))
            start = stop
    # Writes to one sector keep their order: a disk does not bring old contents back.
    order = list(range(len(parts)))
    chance.shuffle(order)
    seen: dict[int, int] = {}
    for index in order:
        seen.setdefault(parts[index].offset // SECTOR, len(seen))
    return sorted(parts, key=lambda part: seen.get(part.offset // SECTOR, 0))


class UnreadableDevice(MemoryDevice):
    """Fails every read that touches one of the lost places, as a disk with bad sectors does."""

    def __init__(self, image: bytes | bytearray = b"", lost: Sequence[range] = ()):
        super().__init__(image)
        self.lost = list(lost)

    def read(self, offset: int, length: int) -> bytes:
        if any(offset < place.stop and place.start < offset + length for place in self.lost):
            raise OSError(errno.EIO, "Input/output error")
        return super().read(offset, length)

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        # A disk puts a good sector in the place of one that is written whole.
        end = offset + sum(map(len, parts))
        self.lost = [
            place for place in self.lost if not (offset <= place.start and place.stop <= end)
        ]
        super().write(offset, parts)


class FailingDevice(MemoryDevice):
    """Fails the calls that `fails` picks, by kind and running number, with an errno."""

    def __init__(self, image: bytes | bytearray = b""):
        super().__init__(image)
        self.calls = 0
        self.fails: Callable[[str, int], int] = lambda kind, number: 0
        self.torn = 0.0

    def _call(self, kind: str) -> None:
        self.calls += 1
        number = self.fails(kind, self.calls)
        if number:
            raise OSError(number, errno.errorcode[number])

    def write(self, offset: int, parts: Sequence[bytes | memoryview]) -> None:
        try:
            self._call("write")
        except OSError:
            # What a failed write leaves behind is anyone's guess.
            data = b"".join(parts)
            apply_write(self.image, offset, data[: int(len(data) * self.torn)])
            raise
        super().write(offset, parts)

    def sync(self) -> None:
        self._call("sync")

    def reserve(self, offset: int, length: int) -> None:
        self._call("reserve")
        super().reserve(offset, length)

    def punch(self, offset: int, length: int) -> None:
        self._call("punch")
        super().punch(offset, length)

    def truncate(self, size: int) -> None:
        self._call("truncate")
        super().truncate(size)
