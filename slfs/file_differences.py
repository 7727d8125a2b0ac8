"""What changed between two instants of a file tree, in words: a line a name, the path in the generation first.

    + files/new             it came
    - files/old             it is gone
    ~ files/a -> files/b    it has another name
    ~ files/a size: 3 -> 7, contents: 1 of 1 pages, mode: 644 -> 600, attribute user.x …

Only what the store holds differently is looked at: inodes whose records differ, and directories among them. A file
that another one replaced under its name is compared with it. Reads the store alone; slow.
"""

import stat
from collections.abc import Iterable, Iterator
from typing import Final

import numpy as np

from slfs.files.base import FILE_OBJECTS, INODE_OBJECT, PER_PAGE, POOLED, Base
from slfs.files.records import RECORD_BYTES, Inode, replay
from slfs.files.tree import Tree
from slfs.journal import format_time
from slos.errors import ObjectNotFoundError
from slos.store import PAGE_BYTES, Store

_PIECE_PAGES: Final = 256
_MODE_WORDS: Final = RECORD_BYTES // 4  # a record begins with its mode, 32 bits

Names = dict[bytes, int]  # path → inode


def file_differences(store: Store, oid: int, old_epoch: int, new_epoch: int) -> Iterator[str]:
    """Lines, without their ends; epochs are those of the tree, 0 for one that was never used. Raises SlosError."""
    if old_epoch != new_epoch:
        yield from _Comparison(_Side(store, oid, old_epoch), _Side(store, oid, new_epoch)).lines()


def file_count(store: Store, oid: int, epoch: int) -> int:
    """How many files of all kinds a tree has, its root not counted."""
    return Tree(Base(store, oid, epoch)).count - 1 if epoch else 0


class _Side:
    """One of the two trees."""

    def __init__(self, store: Store, oid: int, epoch: int) -> None:
        self.base = Base(store, oid, epoch)
        self.tree = Tree(self.base)
        self._by_inode: dict[int, dict[int, bytes]] = {}

    def inode(self, number: int) -> Inode | None:
        """The inode, where it has a name."""
        if not self.base.epoch:
            return None
        try:
            found = self.tree.get(number)
        except OSError:  # ESTALE: there is none
            return None
        # What holds extended attributes has a record too, without times.
        return found if found.nlink and found.ctime_ns else None

    def place(self, directory: int) -> bytes:
        """The path of a directory."""
        names: list[bytes] = []
        while directory != self.tree.root:
            parent = self.tree.get(directory).parent
            if parent not in self._by_inode:
                entries = self.tree.names(self.tree.get(parent)).items()
                self._by_inode[parent] = {number: name for name, number in entries}
            names.append(self._by_inode[parent][directory])
            directory = parent
        return b"/".join([b"files", *reversed(names)])

    def directories(self) -> Iterator[Inode]:
        """Every directory that has a name. Reads all inode records, and keeps none."""
        for page in _pages_of(_object_ranges(self.base, INODE_OBJECT)):
            modes = np.frombuffer(self.base.inode_page(page), "<u4")[::_MODE_WORDS]
            for slot in np.flatnonzero(modes & 0o170000 == stat.S_IFDIR).tolist():
                found = self.inode(page * PER_PAGE + slot)
                if found is not None:
                    yield found

    def listed(self, directory: Inode) -> dict[bytes, int]:
        """The names of a directory, which are not kept."""
        return replay(self.tree.read(directory, 0, directory.size)).names

    def attributes(self, inode: Inode) -> dict[bytes, bytes]:
        """Extended attributes."""
        names = self.tree.attribute_names(inode) if inode.attributes_ino else []
        return {name: self.tree.attribute(inode, name) for name in names}


class _Comparison:
    """Two trees, of which `old` is left and `new` came."""

    def __init__(self, old: _Side, new: _Side) -> None:
        self._old = old
        self._new = new

    def lines(self) -> Iterator[str]:
        changed = self._changed_inodes()
        before, after = self._names(changed)
        found = [*self._named(before, after)]
        known = {number: path for path, number in after.items()}
        for path, number in self._located(changed, known):
            found += [(path, line) for line in self._modified(path, number, number)]
        return (line for _, line in sorted(found, key=lambda one: one[0]))

    # --- which ---

    def _changed_inodes(self) -> list[int]:
        """Numbers of the inodes whose records differ."""
        found = []
        for page in _pages_of(self._changed_ranges(INODE_OBJECT)):
            old, new = (
                np.frombuffer(side.base.inode_page(page), np.uint8).reshape(PER_PAGE, RECORD_BYTES)
                for side in (self._old, self._new)
            )
            slots = np.flatnonzero((old != new).any(axis=1)).tolist()
            found += [page * PER_PAGE + slot for slot in slots]
        return found

    def _changed_ranges(self, object_id: int) -> Iterable[tuple[int, int]]:
        old, new = self._old.base, self._new.base
        if not (old.epoch and new.epoch):
            return [*_object_ranges(old, object_id), *_object_ranges(new, object_id)]
        return new.store.changed_ranges(new.stream, old.epoch, new.epoch, object_id)

    def _names(self, changed: Iterable[int]) -> tuple[Names, Names]:
        """The names of changed directories, then and now; a directory that is still there goes by its new path."""
        before: Names = {}
        after: Names = {}
        for number in changed:
            sides = [(side, side.inode(number)) for side in (self._old, self._new)]
            alive = [(side, one) for side, one in sides if one is not None and one.is_directory]
            for side, directory in alive:
                place = alive[-1][0].place(number)
                into = before if side is self._old else after
                for name, child in side.tree.names(directory).items():
                    into[place + b"/" + name] = child
        return before, after

    def _located(
        self, changed: Iterable[int], known: dict[int, bytes]
    ) -> Iterator[tuple[bytes, int]]:
        """(path, inode) of the changed inodes that both have; one of several names will do."""
        wanted = set()
        for number in changed:
            old, new = self._old.inode(number), self._new.inode(number)
            if old is None or new is None:
                continue
            if new.is_directory:
                yield self._new.place(number), number
            elif number in known:
                yield known[number], number
            else:
                wanted.add(number)
        for directory in self._new.directories() if wanted else ():
            for name, child in self._new.listed(directory).items():
                if child in wanted:
                    wanted.remove(child)
                    yield self._new.place(directory.ino) + b"/" + name, child
            if not wanted:
                return

    # --- how ---

    def _named(self, before: Names, after: Names) -> Iterator[tuple[bytes, str]]:
        """(path, line) of each name that came, is gone, or stands for another file."""
        moved = _moved(before, after)
        left = set(moved.values())
        for path in before.keys() - after.keys() - left:
            yield path, f"- {self._told(self._old, path, before[path])}"
        for path in after.keys() - before.keys() - moved.keys():
            yield path, f"+ {self._told(self._new, path, after[path])}"
        for path, source in moved.items():
            yield path, f"~ {_text(source)} -> {_text(path)}"
        for path in before.keys() & after.keys() - moved.keys():
            if before[path] != after[path]:
                for line in self._modified(path, before[path], after[path]):
                    yield path, line

    @staticmethod
    def _told(side: _Side, path: bytes, number: int) -> str:
        """A path, with a slash behind a directory's and the target behind a link's."""
        inode = side.tree.get(number)
        if stat.S_ISLNK(inode.mode):
            return f"{_text(path)} -> {_text(side.tree.read(inode, 0, inode.size))}"
        return _text(path) + "/" * inode.is_directory

    def _modified(self, path: bytes, old_number: int, new_number: int) -> Iterator[str]:
        old, new = self._old.tree.get(old_number), self._new.tree.get(new_number)
        place = f"~ {_text(path)}"
        if stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
            yield f"- {self._told(self._old, path, old_number)}"
            yield f"+ {self._told(self._new, path, new_number)}"
            return
        for name, was, now in (
            ("mode", f"{stat.S_IMODE(old.mode):o}", f"{stat.S_IMODE(new.mode):o}"),
            ("uid", old.uid, new.uid),
            ("gid", old.gid, new.gid),
            ("device", old.rdev, new.rdev),
        ):
            if was != now:
                yield f"{place} {name}: {was} -> {now}"
        yield from self._attributes(place, old, new)
        if not new.is_directory:
            yield from self._contents(place, old, new)

    def _attributes(self, place: str, old: Inode, new: Inode) -> Iterator[str]:
        before, after = self._old.attributes(old), self._new.attributes(new)
        for name in sorted(before.keys() | after.keys()):
            if before.get(name) != after.get(name):
                sign = "-" if name not in after else "~" if name in before else "+"
                yield f"{sign} {place[2:]} attribute {_text(name)}"

    def _contents(self, place: str, old: Inode, new: Inode) -> Iterator[str]:
        if old.size != new.size:
            yield f"{place} size: {old.size} -> {new.size}"
        count = sum(self._differ(old, new, start, end) for start, end in self._suspects(old, new))
        if count:
            total = -(-max(old.size, new.size) // PAGE_BYTES)
            yield f"{place} contents: {count} of {total} pages"
        elif old.size == new.size and old.mtime_ns != new.mtime_ns:
            yield f"{place} mtime: {format_time(old.mtime_ns)} -> {format_time(new.mtime_ns)}"

    def _suspects(self, old: Inode, new: Inode) -> Iterator[tuple[int, int]]:
        """(first, end) of the runs of pages that may differ."""
        end = -(-max(old.size, new.size) // PAGE_BYTES)
        if old.ino != new.ino:
            yield from _joined(
                [*self._old.base.data_pages(old.ino), *self._new.base.data_pages(new.ino)], end
            )
            return
        yield 0, min(POOLED, end)
        if end > POOLED:
            ranges = self._changed_ranges(FILE_OBJECTS + new.ino)
            yield from _joined([(a // PAGE_BYTES, -(-b // PAGE_BYTES)) for a, b in ranges], end)

    def _differ(self, old: Inode, new: Inode, first: int, end: int) -> int:
        """How many of these pages differ."""
        count = 0
        for start in range(first, end, _PIECE_PAGES):
            length = min(_PIECE_PAGES, end - start)
            before, after = (
                np.frombuffer(side.base.pages(inode.ino, start, length), "<u8").reshape(length, -1)
                for side, inode in ((self._old, old), (self._new, new))
            )
            count += int((before != after).any(axis=1).sum())
        return count


def _moved(before: Names, after: Names) -> dict[bytes, bytes]:
    """New path → old one, of inodes that left one name and have another."""
    left: dict[int, list[bytes]] = {}
    for path in sorted(before.keys() - after.keys()):
        left.setdefault(before[path], []).append(path)
    found = {}
    for path in sorted(after):
        number = after[path]
        if before.get(path) != number and left.get(number):
            found[path] = left[number].pop(0)
    return found


def _joined(runs: Iterable[tuple[int, int]], limit: int) -> Iterator[tuple[int, int]]:
    """Runs in order, each page once, up to `limit`."""
    position = 0
    for first, end in sorted(runs):
        low, high = max(first, position), min(end, limit)
        if low < high:
            yield low, high
            position = high


def _text(data: bytes) -> str:
    return data.decode(errors="backslashreplace").replace("\n", "\\n")


def _object_ranges(base: Base, object_id: int) -> Iterator[tuple[int, int]]:
    """Byte ranges of an object that hold data."""
    try:
        if base.epoch:
            yield from base.store.data_ranges(base.stream, base.epoch, object_id)
    except ObjectNotFoundError:
        return  # never written


def _pages_of(ranges: Iterable[tuple[int, int]]) -> list[int]:
    """Numbers of the pages that ranges of bytes touch, ascending."""
    found: set[int] = set()
    for start, end in ranges:
        found.update(range(start // PAGE_BYTES, -(-end // PAGE_BYTES)))
    return sorted(found)
