"""Contents and files of an address space, in memory: what a generation and the machine give, without both."""

from collections.abc import Iterable, Mapping

from sls.address_space import Range
from sls.resources.memory import FileVersion
from sls.syscalls import PAGE_BYTES


class FakeObjects:
    """`sls.address_space.Objects`: object → page number → the byte that fills the page."""

    def __init__(self, objects: Mapping[int, Mapping[int, int]]) -> None:
        self._objects = objects

    def read(self, object_id: int, offset: int, length: int) -> bytes:
        pages = self._objects[object_id]
        return bytes(
            pages.get(position // PAGE_BYTES, 0) for position in range(offset, offset + length)
        )

    def data_ranges(self, object_id: int, start: int, end: int) -> Iterable[Range]:
        for number in sorted(self._objects[object_id]):
            low, high = max(start, number * PAGE_BYTES), min(end, (number + 1) * PAGE_BYTES)
            if low < high:
                yield low, high


class FakeFiles:
    """`sls.address_space.Files`: the present files, by path."""

    def __init__(self, files: Mapping[bytes, bytes]) -> None:
        self._files = files

    def is_same(self, version: FileVersion) -> bool:
        return version.path in self._files

    def read(self, version: FileVersion, offset: int, length: int) -> bytes | None:
        data = self._files.get(version.path)
        return None if data is None else data[offset : offset + length]
