"""generations/<n>/processes/: captured processes as /proc would show them.

    processes/<pid>/{cmdline,maps,status,…}  mem  core  fd/  fdinfo/  threads/<tid>/

The texts are `sls.procview`'s; this makes a tree of them. Images are decoded once and kept for the
few generations looked at last: one process-wide cache, guarded by a lock. Call from worker threads.
"""

import errno
import stat
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from slfs.inodes import Attributes, Directory, Handle, Node, RegularFile, Symlink, TextFile
from slfs.registry import Entry
from slfs.watch import Watch
from slos.store import GenerationInfo
from sls import proc, procview
from sls.address_space import AddressSpace, Range
from sls.image import MANIFEST_OBJECT, Image, ProcessImage, decode
from sls.mapped_files import MappedFiles, running_vdso

MAX_IMAGES: Final = 16
READ_BYTES: Final = 128 << 10


class Images:
    """Decoded images of the generations looked at last."""

    def __init__(self, limit: int = MAX_IMAGES) -> None:
        self._limit = limit
        self._lock = threading.Lock()
        self._images: OrderedDict[tuple[int, int], Image] = OrderedDict()

    def get(self, entry: Entry, epoch: int) -> Image:
        """A generation's image. Raises ImageError, SlosError."""
        key = (entry.serial, epoch)
        with self._lock:
            image = self._images.get(key)
            if image is not None:
                self._images.move_to_end(key)
                return image
        image = decode(entry.store.read(entry.oid, epoch, MANIFEST_OBJECT))
        with self._lock:
            self._images[key] = image
            while len(self._images) > self._limit:
                self._images.popitem(last=False)
        return image


images: Final = Images()


class Within:
    """A place inside one generation: which one, and the names from its top down."""

    is_slow = True
    read_only_errno = errno.EROFS

    def __init__(self, entry: Entry, info: GenerationInfo, *place: Hashable) -> None:
        self.entry = entry
        self.info = info
        self.place = place

    @property
    def identity(self) -> Hashable:
        return ("generation", self.entry.serial, self.info.epoch, *self.place)

    def attributes_of(self, mode: int, size: int = 0, *, is_lasting: bool = True) -> Attributes:
        """What stat(2) tells of a part of this generation."""
        return Attributes(
            mode=mode,
            owner=self.entry.owner,
            size=size,
            links=2 if stat.S_ISDIR(mode) else 1,
            time_ns=self.info.time_ns,
            is_lasting=is_lasting,
        )


class ProcessesDirectory(Within, Directory):
    """processes/: one directory a pid."""

    def __init__(self, entry: Entry, info: GenerationInfo) -> None:
        super().__init__(entry, info, "processes")

    def attributes(self) -> Attributes:
        return self.attributes_of(stat.S_IFDIR | 0o700)

    def names(self) -> Sequence[bytes]:
        return [b"%d" % one.pid for one in images.get(self.entry, self.info.epoch).processes]

    def lookup(self, name: bytes) -> Node | None:
        image = images.get(self.entry, self.info.epoch)
        process = next((one for one in image.processes if b"%d" % one.pid == name), None)
        if process is None:
            return None
        contents = procview.entries(process, lambda: open_space(self.entry, self.info, process))
        return make_node(self, name, contents)


class GenerationObjects:
    """`sls.address_space.Objects` of one generation."""

    def __init__(self, entry: Entry, epoch: int) -> None:
        self._entry = entry
        self._epoch = epoch

    def read(self, object_id: int, offset: int, length: int) -> bytes:
        return self._entry.store.read(self._entry.oid, self._epoch, object_id, offset, length)

    def data_ranges(self, object_id: int, start: int, end: int) -> Iterator[Range]:
        return self._entry.store.data_ranges(self._entry.oid, self._epoch, object_id, start, end)


def open_space(entry: Entry, info: GenerationInfo, process: ProcessImage) -> AddressSpace:
    """The memory of a captured process. Mapped files are read with the rights of the partition's owner."""
    image = images.get(entry, info.epoch)
    vdso = running_vdso() if image.boot_id == proc.boot_id() else b""
    files = MappedFiles(entry.owner.uid, entry.owner.gid)
    return AddressSpace(process.memory, GenerationObjects(entry, info.epoch), files, vdso=vdso)


# --- what procview gives, as nodes ------------------------------------------------------------


def make_node(parent: Within, name: bytes, entry: procview.Entry) -> Node:
    """The node of one name below `parent`."""
    place = (*parent.place, name)
    if isinstance(entry, procview.File):
        return ViewFile(parent.entry, parent.info, entry, *place)
    if isinstance(entry, procview.Bytes):
        return ViewBytes(parent.entry, parent.info, entry, *place)
    if isinstance(entry, procview.Link):
        return ViewLink(parent.entry, parent.info, entry, *place)
    return ViewDirectory(parent.entry, parent.info, entry, *place)


class ViewDirectory(Within, Directory):
    """A directory of a process."""

    def __init__(
        self,
        entry: Entry,
        info: GenerationInfo,
        contents: Mapping[str, procview.Entry],
        *place: Hashable,
    ) -> None:
        super().__init__(entry, info, *place)
        self._contents = contents

    def attributes(self) -> Attributes:
        return self.attributes_of(stat.S_IFDIR | 0o700)

    def names(self) -> Sequence[bytes]:
        return [name.encode() for name in self._contents]

    def lookup(self, name: bytes) -> Node | None:
        found = self._contents.get(name.decode(errors="replace"))
        return None if found is None else make_node(self, name, found)


class ViewFile(Within, TextFile):
    """A text of a process."""

    def __init__(
        self, entry: Entry, info: GenerationInfo, view: procview.File, *place: Hashable
    ) -> None:
        super().__init__(entry, info, *place)
        self._view = view

    def attributes(self) -> Attributes:
        # True sizes: cp, tar and rsync read as much as stat says.
        mode = 0o600 if self._view.is_private else 0o644
        return self.attributes_of(stat.S_IFREG | mode, len(self.render()))

    def render(self) -> bytes:
        return self._view.text()


class BytesHandle:
    """An open `ViewBytes`."""

    watch: Watch | None = None

    def __init__(self, opened: procview.Readable) -> None:
        self._opened = opened

    def read(self, offset: int, size: int) -> bytes:
        return self._opened.read(offset, size)

    def is_readable(self) -> bool:
        return True


class ViewBytes(Within, RegularFile):
    """Memory of a process, by address or as a core file."""

    def __init__(
        self, entry: Entry, info: GenerationInfo, view: procview.Bytes, *place: Hashable
    ) -> None:
        super().__init__(entry, info, *place)
        self._view = view
        self.keeps_pages = view.is_stable

    def attributes(self) -> Attributes:
        return self._attributes(self._view.open().size_bytes)

    def listed_attributes(self) -> Attributes:
        return self._attributes(0)

    def _attributes(self, size: int) -> Attributes:
        attributes = self.attributes_of(stat.S_IFREG | 0o600, size, is_lasting=False)
        return replace(attributes, block_bytes=READ_BYTES)

    def open(self) -> Handle:
        return BytesHandle(self._view.open())


class ViewLink(Within, Symlink):
    """A link of a process: where it led when the generation was taken."""

    def __init__(
        self, entry: Entry, info: GenerationInfo, view: procview.Link, *place: Hashable
    ) -> None:
        super().__init__(entry, info, *place)
        self._view = view

    def attributes(self) -> Attributes:
        return self.attributes_of(stat.S_IFLNK | 0o777, len(self._view.target))

    def target(self) -> bytes:
        return self._view.target
