"""Inode numbers of trees, and the trees of generations.

Numbers of trees lie above all others and are theirs alone:

    LIVE | oid << 40 | ino         the live tree of a partition; the same after a remount
    VIEW | index << 40 | ino       the tree of a generation, numbered as they are looked at
"""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final

from slfs.files.base import Base
from slfs.files.tree import Tree
from slos.store import Store

INO_BITS: Final = 40
INO_MASK: Final = (1 << INO_BITS) - 1
LIVE: Final = 1 << 58
VIEW: Final = 1 << 59
FIRST: Final = LIVE
MAX_VIEWS: Final = 4


class View:
    """One generation's tree: `with view as tree`."""

    __slots__ = ("_index", "_views")

    def __init__(self, views: "Views", index: int) -> None:
        self._views = views
        self._index = index

    @property
    def lock(self) -> threading.RLock:
        """That of all views."""
        return self._views.lock

    def __enter__(self) -> Tree:
        self._views.lock.acquire()
        try:
            return self._views.tree(self._index)
        except BaseException:
            self._views.lock.release()
            raise

    def __exit__(self, *_: object) -> None:
        self._views.lock.release()


class Views:
    """Trees of generations: the few that were looked at last. `lock` guards them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self._next = itertools.count(1)
        self._indexes: dict[tuple[Hashable, int], int] = {}
        self._places: dict[int, tuple[Store, int, int]] = {}
        self._trees: OrderedDict[int, Tree] = OrderedDict()

    def index(self, partition: Hashable, store: Store, oid: int, epoch: int) -> int:
        """The number under which a generation's tree is known. A partition's number may be used again."""
        key = (partition, epoch)
        index = self._indexes.get(key)
        if index is None:
            index = self._indexes[key] = next(self._next)
            self._places[index] = (store, oid, epoch)
        return index

    def tree(self, index: int) -> Tree:
        """The tree of a number; SlosError where its generation is gone."""
        found = self._trees.get(index)
        if found is None:
            found = self._trees[index] = Tree(Base(*self._places[index]))
            while len(self._trees) > MAX_VIEWS:
                self._trees.popitem(last=False)
        self._trees.move_to_end(index)
        return found
