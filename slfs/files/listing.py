"""A directory being listed: its names as they were at the last rewind, whatever happens to it meanwhile.

The log of a large directory is read piece by piece, as far as it is asked for, where it takes no names away; so the
first of a million names is there at once. Guarded by the tree's lock.
"""

from typing import Final

from slfs.files.records import Inode, Listing, read_names
from slfs.files.tree import Tree

STREAMED_NAMES: Final = 2000  # from so many on a log is read piece by piece
PIECE_BYTES: Final = 1 << 16


class OpenDirectory:
    """Names of a directory; `.` and `..` come before them."""

    def __init__(self, node: int) -> None:
        self.node = node
        self.names: list[tuple[bytes, int]] = []
        self._listing: Listing | None = None
        self._version = 0
        self._stream: _Stream | None = None

    def rewind(self, tree: Tree, directory: Inode) -> None:
        """The names are those of now. ENOTDIR."""
        self._stream = None
        if directory.listing is None and directory.plain_names >= STREAMED_NAMES:
            self.names = []
            self._stream = _Stream(tree, directory)
            return
        listing = tree.directory(directory.ino).listing
        assert listing is not None
        self.names = list(listing.names.items())
        self._listing, self._version = listing, listing.version

    def is_changed(self, directory: Inode) -> bool:
        """Whether there may be other names now than at the last rewind."""
        listing = directory.listing
        if self._stream is not None:
            return listing is not None
        return listing is not self._listing or listing is None or listing.version != self._version

    def read_on(self, tree: Tree, directory: Inode, wanted: int) -> bool:
        """Add names until there are more than `wanted`; False at the end."""
        stream = self._stream
        while stream is not None and wanted >= len(self.names):
            if not stream.is_of(tree):
                self._add_others(tree, directory)
                stream.end()
            found = stream.read(tree, directory)
            if not found:
                break
            self.names += found
        return wanted < len(self.names)

    def _add_others(self, tree: Tree, directory: Inode) -> None:
        """The log was written anew: what is left are the names of now that were not told yet."""
        told = {name for name, _ in self.names}
        self.names += [one for one in tree.names(directory).items() if one[0] not in told]


class _Stream:
    """The log of one directory, from its start to where it ended at the rewind."""

    def __init__(self, tree: Tree, directory: Inode) -> None:
        self._tree = tree
        self._compactions = tree.compactions
        self._position = 0
        self._end = directory.size

    def is_of(self, tree: Tree) -> bool:
        """Whether the log is still the one that was begun. A rollback makes another tree."""
        return self._position >= self._end or (
            tree is self._tree and tree.compactions == self._compactions
        )

    def end(self) -> None:
        """Read no further."""
        self._position = self._end

    def read(self, tree: Tree, directory: Inode) -> list[tuple[bytes, int]]:
        """The next names; none at the end."""
        left = self._end - self._position
        if left <= 0:
            return []
        data = tree.read(directory, self._position, min(left, PIECE_BYTES))
        found, taken = read_names(data, left)
        self._position += taken
        return found
