"""Large directories, listed piece by piece: each name once, whatever happens meanwhile."""

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from slfs.files.base import Base
from slfs.files.listing import STREAMED_NAMES, OpenDirectory
from slfs.files.snapshot import LiveFiles
from slfs.files.tree import Tree
from slos.objstore import ObjectStore

COUNT = 2 * STREAMED_NAMES
NAMES = [b"a name of some length %d" % number for number in range(COUNT)]


@pytest.fixture
def files(tmp_path: Path) -> Iterator[LiveFiles]:
    """A tree with COUNT names in its root, as it is found after a mount."""
    ObjectStore.create(tmp_path / "a")
    with ObjectStore.open(tmp_path / "a") as store:
        store.create_partition(1)
        made = LiveFiles(store, 1, (0, 0), list)
        with made as tree:
            for name in NAMES:
                tree.make(tree.root, name, stat.S_IFREG | 0o644, (0, 0))
        made.flush()
        yield LiveFiles(store, 1, (0, 0), list)


def rewound(tree: Tree) -> OpenDirectory:
    listing = OpenDirectory(tree.root)
    listing.rewind(tree, tree.get(tree.root))
    return listing


def told(listing: OpenDirectory, tree: Tree) -> list[bytes]:
    """The names of a listing to its end, without those that were removed since."""
    root = tree.get(tree.root)
    while listing.read_on(tree, root, len(listing.names)):
        pass
    now = tree.names(root) if listing.is_changed(root) else None
    return [name for name, ino in listing.names if now is None or now.get(name) == ino]


def begun(tree: Tree) -> OpenDirectory:
    """A listing of which the first piece was told."""
    listing = rewound(tree)
    assert listing.read_on(tree, tree.get(tree.root), 0)
    assert 0 < len(listing.names) < COUNT // 2
    return listing


def test_names_are_told_without_replaying_the_log(files: LiveFiles) -> None:
    with files as tree:
        listing = begun(tree)
        assert told(listing, tree) == NAMES
        assert tree.get(tree.root).listing is None
        assert not listing.read_on(tree, tree.get(tree.root), COUNT)


def test_what_is_removed_or_made_meanwhile(files: LiveFiles) -> None:
    with files as tree:
        listing = begun(tree)
        tree.unlink(tree.root, NAMES[0])
        tree.unlink(tree.root, NAMES[-1])
        tree.make(tree.root, b"new", stat.S_IFREG | 0o644, (0, 0))
        assert told(listing, tree) == NAMES[1:-1]


def test_a_log_written_anew_meanwhile(files: LiveFiles) -> None:
    left = NAMES[::4]
    with files as tree:
        listing = begun(tree)
        for name in set(NAMES) - set(left):
            tree.unlink(tree.root, name)
    files.flush()
    with files as tree:
        assert tree.compactions == 1
        assert sorted(told(listing, tree)) == sorted(left)


def test_a_rollback_meanwhile(files: LiveFiles) -> None:
    with files as tree:
        listing = begun(tree)
        tree.unlink(tree.root, NAMES[-1])
    files.roll_back(0)
    with files as tree:
        assert told(listing, tree) == []


def test_a_log_that_takes_names_away_is_replayed(files: LiveFiles) -> None:
    with files as tree:
        tree.unlink(tree.root, NAMES[0])
    files.flush()
    again = Tree(Base(files.store, 1, files.tree.base.epoch))
    listing = rewound(again)
    assert len(listing.names) == COUNT - 1
    assert told(listing, again) == NAMES[1:]


def test_names_after_a_flush_of_something_else(files: LiveFiles) -> None:
    """A directory whose attributes alone changed keeps what is known of its log."""
    with files as tree:
        tree.change_mode(tree.get(tree.root), 0o700)
    files.flush()
    again = Tree(Base(files.store, 1, files.tree.base.epoch))
    assert told(begun(again), again) == NAMES
