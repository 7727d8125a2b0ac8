"""The bytes of one capture, kept in memory: what the store gives a restore, without the store."""

from collections.abc import Sequence

from sls.capture import Capture
from sls.pages import CopyBuffer
from sls.ranges import merged
from sls.resources import Writer
from sls.session import CapturedObject
from sls.syscalls import PAGE_BYTES

Piece = tuple[int, int, bytes]  # start, end, the bytes between


class MemoryContents:
    """A `sls.resources.ContentReader` over a copy of a full capture's objects."""

    def __init__(self, capture: Capture, buffer: CopyBuffer) -> None:
        assert not capture.is_delta, "a delta alone cannot be restored"
        pages: dict[int, dict[int, bytes]] = {}
        for one in capture.objects:  # several of one number: the later ones go over the earlier
            _put(pages.setdefault(one.object_id, {}), one, buffer)
        self._objects = {object_id: _pieces(held) for object_id, held in pages.items()}

    def data_ranges(self, object_id: int) -> Sequence[tuple[int, int]]:
        return [(start, end) for start, end, _ in self._objects[object_id]]

    def copy_to(self, object_id: int, ranges: Sequence[tuple[int, int]], write: Writer) -> None:
        for wanted_start, wanted_end in ranges:
            assert not (wanted_start % PAGE_BYTES or wanted_end % PAGE_BYTES), "the store has pages"
            for start, end, data in self._objects[object_id]:
                low, high = max(start, wanted_start), min(end, wanted_end)
                if low < high:
                    write(low, memoryview(bytearray(data[low - start : high - start])))


def _put(held: dict[int, bytes], one: CapturedObject, buffer: CopyBuffer) -> None:
    for address in list(held):
        if any(start <= address < end for start, end in one.gone):
            del held[address]
    position = one.offset
    for start, end in one.ranges:
        for address in range(start, end, PAGE_BYTES):
            held[address] = bytes(buffer.view(position, PAGE_BYTES))
            position += PAGE_BYTES


def _pieces(held: dict[int, bytes]) -> list[Piece]:
    ranges = merged((address, address + PAGE_BYTES) for address in held)
    return [
        (start, end, b"".join(held[address] for address in range(start, end, PAGE_BYTES)))
        for start, end in ranges
    ]
