"""Inode numbers of trees, and the trees of generations.

Numbers of trees lie above all others and are theirs alone:

    LIVE | oid << 40 | ino         the live tree of a partition; the same after a remount
    VIEW | index << 40 | ino       the tree of a generation, numbered as they are looked at
"""

import itertools
from collections import OrderedDict
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


class Views:
    """Trees of generations: the few that were looked at last. Guard it with one lock."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._indexes: dict[tuple[int, int], int] = {}
        self._places: dict[int, tuple[Store, int, int]] = {}
        self._trees: OrderedDict[int, Tree] = OrderedDict()

    def index(self, store: Store, oid: int, epoch: int) -> int:
        """The number under which a generation's tree is known."""
        key = (oid, epoch)
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
