"""The bytes of one capture, kept in memory: what the store gives a restore, without the store."""

from collections.abc import Sequence

from sls.capture import Capture
from sls.pages import CopyBuffer
from sls.resources import Writer

Piece = tuple[int, int, bytes]  # start, end, the bytes between


class MemoryContents:
    """A `sls.resources.ContentReader` over a copy of a full capture's objects."""

    def __init__(self, capture: Capture, buffer: CopyBuffer) -> None:
        assert not capture.is_delta, "a delta alone cannot be restored"
        self._objects: dict[int, list[Piece]] = {}
        for one in capture.objects:
            position = one.offset
            pieces = self._objects[one.object_id] = []
            for start, end in one.ranges:
                pieces.append((start, end, bytes(buffer.view(position, end - start))))
                position += end - start

    def data_ranges(self, object_id: int) -> Sequence[tuple[int, int]]:
        return [(start, end) for start, end, _ in self._objects[object_id]]

    def copy_to(self, object_id: int, ranges: Sequence[tuple[int, int]], write: Writer) -> None:
        for wanted_start, wanted_end in ranges:
            for start, end, data in self._objects[object_id]:
                low, high = max(start, wanted_start), min(end, wanted_end)
                if low < high:
                    write(low, memoryview(bytearray(data[low - start : high - start])))
