"""generations/<n>/processes/: captured processes as /proc would show them.

    processes/<pid>/{cmdline,maps,status,…}  fd/  fdinfo/  threads/<tid>/

The texts are `sls.procview`'s; this makes a tree of them. Images are decoded once and kept for the
few generations looked at last: one process-wide cache, guarded by a lock. Call from worker threads.
"""

import errno
import stat
import threading
from collections import OrderedDict
from collections.abc import Hashable, Mapping, Sequence
from functools import partial
from typing import Final

from slfs.inodes import Attributes, Directory, Node, Symlink, TextFile
from slfs.registry import Entry
from slos.store import GenerationInfo
from sls import procview
from sls.image import MANIFEST_OBJECT, Image, ProcessImage, decode

MAX_IMAGES: Final = 16


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
        return self.attributes_of(stat.S_IFDIR | 0o500)

    def names(self) -> Sequence[bytes]:
        return [b"%d" % one.pid for one in images.get(self.entry, self.info.epoch).processes]

    def lookup(self, name: bytes) -> Node | None:
        image = images.get(self.entry, self.info.epoch)
        process = next((one for one in image.processes if b"%d" % one.pid == name), None)
        if process is None:
            return None
        contents = procview.entries(process, image, partial(self._read_memory, process))
        return make_node(self, name, contents)

    def _read_memory(self, process: ProcessImage, address: int, length: int) -> bytes:
        object_id = process.memory.object_id
        data = self.entry.store.read(self.entry.oid, self.info.epoch, object_id, address, length)
        return data.ljust(length, b"\0")


# --- what procview gives, as nodes ------------------------------------------------------------


def make_node(parent: Within, name: bytes, entry: procview.Entry) -> Node:
    """The node of one name below `parent`."""
    place = (*parent.place, name)
    if isinstance(entry, procview.File):
        return ViewFile(parent.entry, parent.info, entry, *place)
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
        return self.attributes_of(stat.S_IFDIR | 0o500)

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
        mode = 0o400 if self._view.is_private else 0o444
        return self.attributes_of(stat.S_IFREG | mode, len(self.render()))

    def render(self) -> bytes:
        return self._view.text()


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
