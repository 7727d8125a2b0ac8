"""A captured address space as bytes: what pread(2) of /proc/<pid>/mem would have given at that instant.

Private pages come from the generation's object of the process, those of inodes without a name from objects of their
own, and pages of mapped files that the process never wrote from the files, if those are still what was mapped. The
vdso is not kept: it is that of the running kernel, or missing. Pure over the readers it is given; any thread.
"""

import errno
import mmap
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import Final, Protocol

from sls.ranges import intersection, merged
from sls.resources import MemoryRecord, VmaKind, VmaRecord
from sls.resources.memory import FileVersion
from sls.syscalls import PAGE_BYTES

Range = tuple[int, int]
_VDSO: Final = b"[vdso]"


class Objects(Protocol):
    """Contents of one generation."""

    def read(self, object_id: int, offset: int, length: int) -> bytes:
        """Bytes; holes are zeros, short at the object's end."""
        ...

    def data_ranges(self, object_id: int, start: int, end: int) -> Iterable[Range]:
        """Byte ranges within [start, end) that hold data, ascending."""
        ...


class Files(Protocol):
    """The files of the machine as they are now."""

    def is_same(self, version: FileVersion) -> bool:
        """Whether the file is still the one that was mapped, and may be read."""
        ...

    def read(self, version: FileVersion, offset: int, length: int) -> bytes | None:
        """Bytes of the file, short at its end; None when it is another one now."""
        ...


class UnmappedError(OSError):
    """Nothing that can be read is at an address (EIO, as of /proc/<pid>/mem)."""

    def __init__(self, address: int) -> None:
        super().__init__(errno.EIO, f"nothing is kept at address {address:#x}; see maps")


class AddressSpace:
    """Memory of one captured process. `vdso`: that of this kernel when the process ran under it, else empty."""

    def __init__(
        self, record: MemoryRecord, objects: Objects, files: Files, *, vdso: bytes = b""
    ) -> None:
        self.vmas = record.vmas
        self._object_id = record.object_id
        self._zeroed = record.own_pages  # of mapped files; zeros where the generation has no bytes
        self._objects = objects
        self._files = files
        self._vdso = vdso
        self._starts = [vma.start for vma in record.vmas]

    # --- bytes ---

    def read(self, address: int, length: int) -> bytes:
        """Bytes from `address` on, up to the first that is not there. UnmappedError when that is the first one."""
        pieces: list[bytes] = []
        position, end = address, address + length
        while position < end:
            vma = self._find(position)
            if vma is None:
                break
            piece = self._read_mapped(vma, position, min(end, vma.end))
            pieces.append(piece)
            position += len(piece)
            if position < min(end, vma.end):
                break
        if length and position == address:
            raise UnmappedError(address)
        return b"".join(pieces)

    def _find(self, address: int) -> VmaRecord | None:
        index = bisect_right(self._starts, address) - 1
        return self.vmas[index] if index >= 0 and address < self.vmas[index].end else None

    def _read_mapped(self, vma: VmaRecord, start: int, end: int) -> bytes:
        if vma.kind is VmaKind.ANONYMOUS:
            return self._object(self._object_id, start, end - start)
        if vma.kind is VmaKind.KERNEL:
            vdso = self._vdso if vma.name == _VDSO else b""
            return vdso[start - vma.start : end - vma.start]
        return self._read_backed(vma, start, end)

    def _object(self, object_id: int, offset: int, length: int) -> bytes:
        return self._objects.read(object_id, offset, length).ljust(length, b"\0")

    def _read_backed(self, vma: VmaRecord, start: int, end: int) -> bytes:
        """The process's own pages over the inode's; up to the first page that neither has."""
        pieces = []
        position = start
        for low, high in [*self._own(vma, start, end), (end, end)]:
            if position < low:
                piece = self._read_inode(vma, position, low)
                pieces.append(piece)
                position += len(piece)
                if position < low:
                    break
            pieces.append(self._object(self._object_id, low, high - low))
            position = high
        return b"".join(pieces)

    def _read_inode(self, vma: VmaRecord, start: int, end: int) -> bytes:
        """Bytes of what is mapped; zeros from its end to that of its last page, nothing beyond (SIGBUS)."""
        offset = vma.offset + start - vma.start
        length = min(end - start, _whole_pages(_inode_bytes(vma)) - offset)
        if length <= 0:
            return b""
        if vma.inode is not None:
            return self._object(vma.inode.content.object_id, offset, length)
        assert vma.file is not None
        data = self._files.read(vma.file, offset, length)
        return b"" if data is None else data.ljust(length, b"\0")

    def _own(self, vma: VmaRecord, start: int, end: int) -> Iterable[Range]:
        """Ranges of a mapping whose pages are the process's own."""
        if vma.is_shared:
            return ()
        kept = self._objects.data_ranges(self._object_id, start, end)
        return merged([*kept, *intersection(self._zeroed, [(start, end)])])

    # --- what there is ---

    def readable_ranges(self, vma: VmaRecord) -> list[Range]:
        """Where `read` gives bytes now. A mapping without access that nothing is in counts as empty."""
        whole = (vma.start, vma.end)
        if vma.kind is VmaKind.ANONYMOUS:
            return [whole] if vma.protection & mmap.PROT_READ else merged(self._own(vma, *whole))
        if vma.kind is VmaKind.KERNEL:
            return [whole] if vma.name == _VDSO and self._vdso else []
        if vma.file is not None and not self._files.is_same(vma.file):
            return merged(self._own(vma, *whole))
        end = min(vma.end, vma.start + _whole_pages(_inode_bytes(vma)) - vma.offset)
        if end == vma.end:
            return [whole]
        backed = [(vma.start, end)] if vma.start < end else []
        return merged([*backed, *self._own(vma, *whole)])

    def own_ranges(self) -> Iterator[Range]:
        """Addresses whose bytes are the process's own, in the generation, ascending."""
        spans = merged((vma.start, vma.end) for vma in self.vmas if not vma.is_shared)
        if spans:
            kept = self._objects.data_ranges(self._object_id, spans[0][0], spans[-1][1])
            yield from intersection(merged([*kept, *self._zeroed]), spans)


def _inode_bytes(vma: VmaRecord) -> int:
    """Size of what is mapped when it was captured."""
    if vma.inode is not None:
        return vma.inode.content.size_bytes
    assert vma.file is not None
    return vma.file.size_bytes


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES
