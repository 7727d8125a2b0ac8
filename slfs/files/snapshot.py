"""The live tree of a partition: flushed to the store, frozen at an instant, rolled back.

Each flush is one generation of the partition's file stream: the whole tree at one instant, of which
only what changed is written. The one before it is deleted, unless a generation of the partition refers
to it: then it is that generation's `files/`. Thread-safe: `lock` guards the tree and is held for
moments; `_flushing` orders flushes and is held while the store writes.
"""

import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, suppress

from slfs.files.base import Base, Batch
from slfs.files.tree import Tree
from slos.errors import ObjectNotFoundError, SlosError
from slos.store import SIDE_STREAM, Store

_ADOPTED_NS = 60 * 10**9  # by then a generation refers to an epoch, or none will
_commits = ThreadPoolExecutor(4, thread_name_prefix="slfs-frozen")
_inos: dict[int, int] = {}  # number after the last of trees that were removed under this mount


class LiveFiles:
    """The tree of one partition. Nothing is in the store before the first change.

    `references` tells the epochs of the file stream that generations of the partition refer to.
    """

    def __init__(
        self,
        store: Store,
        oid: int,
        owner: tuple[int, int],
        references: Callable[[], Iterable[int]],
    ) -> None:
        self.oid = oid
        self.store = store
        self.lock = threading.RLock()
        self.is_removed = False
        self.opened_for_both: dict[int, int] = {}  # inode → open files that may be mapped shared
        self.forget_kernel_caches: Callable[[Tree, Tree], None] = lambda old, new: None
        self.sync_kernel_caches: Callable[[], None] = lambda: None
        self._stream = oid | SIDE_STREAM
        self._owner = owner
        self._references = references
        self._flushing = threading.Lock()
        self._tree: Tree | None = None
        self._pins: set[int] = set()
        self._has_stream = False
        self._newest()
        self._origin = (-1, 0)  # (epoch made by a rollback, the one that it is equal to)

    # --- the tree ---

    @property
    def tree(self) -> Tree:
        """The tree, read from the store at first use."""
        if self._tree is None:
            with self.lock:
                if self._tree is None:
                    self._tree = self._open()
        return self._tree

    @property
    def is_loaded(self) -> bool:
        return self._tree is not None

    def __enter__(self) -> Tree:
        """The tree as long as it is held: `with files as tree`. A rollback puts another in its place."""
        self.lock.acquire()
        return self.tree

    def __exit__(self, *_: object) -> None:
        self.lock.release()

    def _open(self) -> Tree:
        base = Base(self.store, self.oid, self._newest())
        tree = Tree(base, self._owner, _inos.get(self.oid, 1))
        self._pins = set(self._references())
        tree.drop_orphans()
        return tree

    def _newest(self) -> int:
        try:
            newest = self.store.newest(self._stream)
        except ObjectNotFoundError:
            return 0
        self._has_stream = True
        return newest or 0

    # --- flushing ---

    def flush(self, *, wait: bool = False) -> int:
        """Write what changed; with `wait` all of the tree is durable on return. The epoch; SlosError."""
        with self._flushing:
            if self.is_removed:
                return 0
            with self.lock:
                batch = self.tree.take()
                epoch = self.tree.base.epoch
            if batch is not None:
                epoch = self._commit(batch)
        if wait and epoch:
            self.store.wait_durable(self._stream, epoch)
        return epoch

    def _commit(self, batch: Batch) -> int:
        tree = self.tree
        old = tree.base.epoch
        try:
            if not self._has_stream:
                self.store.create_partition(self._stream)
                self._has_stream = True
            with self.store.begin(self._stream, parent=old or None) as transaction:
                batch.write(transaction)
                epoch = transaction.commit(wait=False).epoch
        except BaseException:
            with self.lock:
                tree.put_back(batch)
            raise
        with self.lock:
            tree.settle(batch, epoch)
        self._let_go(old)
        return epoch

    def _let_go(self, epoch: int) -> None:
        if epoch and epoch not in self._pins:
            self.store.delete_generation(self._stream, epoch)

    def sweep(self) -> None:
        """Delete epochs that no generation refers to any more."""
        with self._flushing:
            if not self._has_stream or self.is_removed:
                return
            wanted = set(self._references())
            current = self.tree.base.epoch
            for info in self.store.generations(self._stream):
                is_young = time.time_ns() - info.time_ns < _ADOPTED_NS
                if info.epoch not in wanted and info.epoch != current and not is_young:
                    self.store.delete_generation(self._stream, info.epoch)
                elif is_young:
                    wanted.add(info.epoch)
            self._pins = wanted

    # --- generations ---

    def prepare(self) -> None:
        """A freeze is to come: write what there is now, so that little is left."""
        if self.is_used:
            self.flush()

    def freeze(self) -> "FrozenFiles":
        """The tree as it is now, dirty pages of shared mappings included.

        Call it while the members stand still; what follows on them does not change it.
        """
        if not self.is_used:
            return FrozenFiles(_done(0))
        if self.opened_for_both:
            self.sync_kernel_caches()
        with ExitStack() as held:
            held.enter_context(self._flushing)
            with self.lock:
                batch = self.tree.take()
                epoch = self.tree.base.epoch
            if batch is None:
                made, equal = self._origin
                epoch = equal if epoch == made else epoch
                self._pins.add(epoch)
                return FrozenFiles(_done(epoch))
            held.pop_all()
        return FrozenFiles(_commits.submit(self._finish_freeze, batch))

    def _finish_freeze(self, batch: Batch) -> int:
        """Commit, and end what `freeze` began: the turn to flush was handed over to this thread."""
        try:
            epoch = self._commit(batch)
            self._pins.add(epoch)
            return epoch
        finally:
            self._flushing.release()

    @property
    def is_used(self) -> bool:
        """Whether there ever was anything in it."""
        if self._tree is None:
            return self._has_stream
        return bool(self._tree.base.epoch) or self._tree.is_dirty

    def roll_back(self, epoch: int) -> None:
        """The tree is that of `epoch` from now on; 0: an empty one. What the kernel keeps of it goes.

        What is there is lost unless a generation refers to it. Raises SlosError; then the tree is as it was.
        """
        old = self.tree
        with self._flushing:
            fresh = self._tree_of(epoch, old)
            with self.lock:
                batch = fresh.take()
            if batch is not None:
                self._commit_other(fresh, batch, old)
            with self.lock:
                if old.next_ino > fresh.next_ino:  # numbers that were given out meanwhile
                    fresh.next_ino = old.next_ino
                    fresh.touch(fresh.get(fresh.root))
                self._tree = fresh
            with suppress(SlosError):  # else it goes with the next sweep
                self._let_go(old.base.epoch)
        self.forget_kernel_caches(old, fresh)

    def _tree_of(self, epoch: int, old: Tree) -> Tree:
        fresh = Tree(Base(self.store, self.oid, epoch), self._owner, old.root)
        # Numbers given out since are not given out again: the kernel may know them.
        fresh.next_ino = max(fresh.next_ino, old.next_ino)
        fresh.touch(fresh.get(fresh.root))
        return fresh

    def _commit_other(self, fresh: Tree, batch: Batch, old: Tree) -> None:
        """Make the tree of an older epoch the newest one."""
        if not self._has_stream:
            return
        with self.store.begin(self._stream, parent=fresh.base.epoch or None) as transaction:
            batch.write(transaction)
            epoch = transaction.commit(wait=False).epoch
        self._origin = (epoch, fresh.base.epoch)
        fresh.settle(batch, epoch)

    # --- the end ---

    def close(self) -> None:
        """Write what there is."""
        if self._tree is not None:
            self.flush()

    def remove(self) -> None:
        """The partition is removed: so is its tree."""
        with self._flushing, self.lock:
            if self._tree is not None:
                _inos[self.oid] = self._tree.next_ino
            if self._has_stream or self._newest():
                self.store.delete_partition(self._stream)
            self._has_stream = False
            self.is_removed = True


class FrozenFiles:
    """The tree at one instant, on its way into the store."""

    def __init__(self, future: "Future[int]") -> None:
        self._future = future

    def epoch(self) -> int:
        """Wait until it is a generation of the file stream: its epoch. Raises SlosError."""
        return self._future.result()


def _done(epoch: int) -> "Future[int]":
    future: Future[int] = Future()
    future.set_result(epoch)
    return future
