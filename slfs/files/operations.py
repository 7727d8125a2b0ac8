"""Requests of the kernel that are for a tree of files. Beside slfs.fs the one module with pyfuse3.

An inode number says which tree is meant. Requests run in trio's loop and take the tree's lock for
moments; what waits for the store runs in a worker thread. The kernel checks modes and keeps names,
attributes and pages until it is told otherwise: all changes go through this mount.
"""

import errno
import logging
import os
import select
import stat
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FUSEError,
    InodeT,
    ReaddirToken,
    RequestContext,
    SetattrFields,
)

from slfs.errors import EXPECTED_ERRORS, errno_of
from slfs.files.base import MissingBlockError
from slfs.files.flusher import Flusher
from slfs.files.listing import OpenDirectory
from slfs.files.loader import WINDOW_BYTES, Loader
from slfs.files.nodes import FIRST, INO_BITS, INO_MASK, LIVE, VIEW, View, Views
from slfs.files.records import Inode
from slfs.files.snapshot import LiveFiles
from slfs.files.tree import Tree, refused
from slfs.inodes import FilesDirectory
from slos.errors import SlosError

logger = logging.getLogger("slfs")

LASTING_SECONDS: Final = 86400.0
DIRTY_PAGES: Final = (96 << 20) // 4096  # a writer waits for a flush beyond this
FLUSH_PAGES: Final = DIRTY_PAGES // 3
LOADS: Final = 4  # tries of a read that flushes come between
_DIRECTORY_HANDLE: Final = 1 << 62
_UNPRIVILEGED: Final = 1 << 60  # in a file handle: its opener's writes take privileges away
_FOR_BOTH: Final = 1 << 61  # opened for reading and writing: it may be mapped shared
_STRANGER: Final = 1 << 63  # and is not in the file's group
_NODE: Final = _UNPRIVILEGED - 1

P = ParamSpec("P")
R = TypeVar("R")


def answers_errno(
    handler: Callable[Concatenate["FileOperations", P], Awaitable[R]],
) -> Callable[Concatenate["FileOperations", P], Coroutine[Any, Any, R]]:
    """Turns errors into errnos, as slfs.fs does; a missing name is no event."""

    @wraps(handler)
    async def answer(self: "FileOperations", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except SlosError as error:
            logger.error("%s: %s", handler.__name__, error)
            raise FUSEError(errno_of(error)) from error
        except EXPECTED_ERRORS as error:
            if errno_of(error) == errno.ESTALE:
                logger.warning("%s%s: no such inode", handler.__name__, args[:2])
            raise FUSEError(errno_of(error)) from error
        except Exception as error:
            logger.exception("defect in %s", handler.__name__)
            raise FUSEError(errno.EIO) from error

    return answer


class FileOperations:
    """All trees of a mount."""

    def __init__(self) -> None:
        self._live: dict[int, LiveFiles] = {}
        self._views = Views()
        self._lookups: dict[int, int] = {}
        self._lives: dict[int, int] = {}  # directory → how often a rollback brought it back
        self._directories: dict[int, OpenDirectory] = {}
        self._next_handle = _DIRECTORY_HANDLE
        self._flusher = Flusher(self._live)
        self._loader = Loader()

    def close(self) -> None:
        """No request comes any more."""
        self._flusher.stop()
        self._loader.stop()

    def count(self) -> int:
        """How many files there are in the live trees that are in use."""
        return sum(files.tree.count for files in list(self._live.values()) if files.is_loaded)

    # --- which tree ---

    async def root_entry(self, node: FilesDirectory) -> EntryAttributes:
        """The reply for the directory `files`. Raises SlosError."""
        place = self._place(node)
        if place & VIEW or not node.files.is_loaded:
            await trio.to_thread.run_sync(self._load_tree, place)
        with self._hold(place) as tree:
            return self._entry(place, tree, tree.get(tree.root))

    def _load_tree(self, place: int) -> None:
        with self._hold(place):
            return

    def _place(self, node: FilesDirectory) -> int:
        """What the inode numbers of a tree have in common."""
        files = node.files
        if node.epoch is not None:
            with self._views.lock:
                index = self._views.index(files, files.store, files.oid, node.epoch)
                return VIEW | index << INO_BITS
        if files.is_removed:
            raise refused(errno.ESTALE)
        if self._live.get(files.oid) is not files:
            self._live[files.oid] = files
            files.forget_kernel_caches = self._forget_kernel_caches
            files.sync_kernel_caches = self._sync_kernel_caches
        return LIVE | files.oid << INO_BITS

    def _hold(self, node: int) -> LiveFiles | View:
        """What a node's tree is to be held with."""
        if node & VIEW:
            return View(self._views, (node & ~VIEW) >> INO_BITS)
        return self._files(node)

    def _files(self, node: int) -> LiveFiles:
        """The live tree of a node that is to be changed; EROFS for one of a generation."""
        if node & VIEW:
            raise refused(errno.EROFS)
        files = self._live.get((node & ~LIVE) >> INO_BITS)
        if files is None or files.is_removed:
            raise refused(errno.ESTALE)
        return files

    # --- replies ---

    def _entry(self, node: int, tree: Tree, inode: Inode) -> EntryAttributes:
        """The reply that makes the kernel remember an inode; `node` is any of its tree."""
        entry = self._attributes(node, tree, inode)
        number = entry.st_ino
        self._lookups[number] = self._lookups.get(number, 0) + 1
        return entry

    def _attributes(self, node: int, tree: Tree, inode: Inode) -> EntryAttributes:
        entry: EntryAttributes | None = inode.reply
        if entry is not None:
            return entry
        entry = EntryAttributes()
        entry.st_ino = InodeT(node & ~INO_MASK | inode.ino)
        entry.generation = self._lives.get(entry.st_ino, 0)
        entry.st_mode = pyfuse3.ModeT(inode.mode)
        entry.st_nlink = inode.nlink
        entry.st_uid = inode.uid
        entry.st_gid = inode.gid
        entry.st_rdev = inode.rdev
        entry.st_blksize = 4096
        if inode.is_directory:
            size = -(-inode.size // 4096) * 4096 or 4096
            entry.st_size, entry.st_blocks = size, size >> 9
        else:
            entry.st_size = inode.size
            entry.st_blocks = tree.data_pages(inode) * 8 if inode.is_regular else 0
        entry.st_atime_ns = inode.atime_ns
        entry.st_mtime_ns = inode.mtime_ns
        entry.st_ctime_ns = inode.ctime_ns
        entry.entry_timeout = entry.attr_timeout = LASTING_SECONDS
        inode.reply = entry
        return entry

    # --- names ---

    async def refuse(self, code: int) -> None:
        """The answer to a request that is for two trees at once."""
        raise FUSEError(code)

    @answers_errno
    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        with self._hold(parent) as tree:
            return self._entry(parent, tree, tree.lookup(parent & INO_MASK, name))

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        for node, count in forgotten:
            left = self._lookups.get(node, 0) - count
            if left > 0:
                self._lookups[node] = left
                continue
            self._lookups.pop(node, None)
            if node & LIVE:
                self._drop_if_orphan(node)

    def _drop_if_orphan(self, node: int) -> None:
        files = self._live.get((node & ~LIVE) >> INO_BITS)
        if files is not None and files.is_loaded:
            with files.lock:
                if node & INO_MASK in files.tree.orphans:
                    files.tree.drop(node & INO_MASK)

    @answers_errno
    async def getattr(self, node: int, ctx: RequestContext) -> EntryAttributes:
        with self._hold(node) as tree:
            return self._attributes(node, tree, tree.get(node & INO_MASK))

    @answers_errno
    async def readlink(self, node: int, ctx: RequestContext) -> bytes:
        with self._hold(node) as tree:
            inode = tree.get(node & INO_MASK)
            return tree.read(inode, 0, inode.size)

    def _make(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext, **more: Any
    ) -> EntryAttributes:
        files = self._files(parent)
        with files.lock:
            tree = files.tree
            owner = (ctx.uid, ctx.gid)
            inode = tree.make(parent & INO_MASK, name, mode, owner, umask=ctx.umask, **more)
            return self._entry(parent, tree, inode)

    @answers_errno
    async def mknod(
        self, parent: int, name: bytes, mode: int, rdev: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(parent, name, mode, ctx, rdev=rdev)

    @answers_errno
    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(parent, name, stat.S_IFDIR | stat.S_IMODE(mode), ctx)

    @answers_errno
    async def symlink(
        self, parent: int, name: bytes, target: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        return self._make(parent, name, stat.S_IFLNK | 0o777, ctx, target=target)

    @answers_errno
    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry = self._make(parent, name, stat.S_IFREG | stat.S_IMODE(mode), ctx)
        return self._opened(entry.st_ino, flags, ctx), entry

    @answers_errno
    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        files = self._files(parent)
        with files.lock:
            self._removed(parent, files.tree, files.tree.unlink(parent & INO_MASK, name))

    @answers_errno
    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        files = self._files(parent)
        with files.lock:
            gone = files.tree.remove_directory(parent & INO_MASK, name)
            self._removed(parent, files.tree, gone)

    def _removed(self, node: int, tree: Tree, inode: Inode) -> None:
        """A name went: so does the inode, if that was its last and the kernel does not know it."""
        if not inode.nlink and node & ~INO_MASK | inode.ino not in self._lookups:
            tree.drop(inode.ino)

    @answers_errno
    async def link(
        self, node: int, parent: int, name: bytes, ctx: RequestContext
    ) -> EntryAttributes:
        files = self._files(parent)
        with files.lock:
            inode = files.tree.link(node & INO_MASK, parent & INO_MASK, name)
            return self._entry(parent, files.tree, inode)

    @answers_errno
    async def rename(
        self,
        old_parent: int,
        old: bytes,
        new_parent: int,
        new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        files = self._files(old_parent)
        with files.lock:
            replaced = files.tree.rename(
                old_parent & INO_MASK, old, new_parent & INO_MASK, new, flags
            )
            if replaced is not None:
                self._removed(old_parent, files.tree, replaced)

    # --- attributes ---

    @answers_errno
    async def setattr(
        self,
        node: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        files = self._files(node)
        with files.lock:
            tree = files.tree
            inode = tree.get(node & INO_MASK)
            if fields.update_size:
                _lose_privileges(tree, inode, ctx)
                tree.truncate(inode, attr.st_size)
            if fields.update_uid or fields.update_gid or _is_empty(fields):
                tree.change_owner(
                    inode,
                    attr.st_uid if fields.update_uid else None,
                    attr.st_gid if fields.update_gid else None,
                )
            if fields.update_mode:
                tree.change_mode(inode, attr.st_mode)
            if fields.update_atime:
                inode.atime_ns = attr.st_atime_ns
            if fields.update_mtime:
                inode.mtime_ns = attr.st_mtime_ns
            inode.ctime_ns = time.time_ns()
            tree.touch(inode)
            return self._attributes(node, tree, inode)

    @answers_errno
    async def getxattr(self, node: int, name: bytes, ctx: RequestContext) -> bytes:
        if node < FIRST:
            raise FUSEError(errno.ENODATA)  # ENOSYS would end extended attributes for all
        with self._hold(node) as tree:
            return tree.attribute(tree.get(node & INO_MASK), name)

    @answers_errno
    async def listxattr(self, node: int, ctx: RequestContext) -> Sequence[bytes]:
        if node < FIRST:
            return ()
        with self._hold(node) as tree:
            names = tree.attribute_names(tree.get(node & INO_MASK))
        if ctx.uid:
            names = [name for name in names if not name.startswith(b"trusted.")]
        return names

    @answers_errno
    async def setxattr(self, node: int, name: bytes, value: bytes, ctx: RequestContext) -> None:
        if node < FIRST:
            raise FUSEError(errno.EOPNOTSUPP)
        files = self._files(node)
        with files.lock:
            files.tree.set_attribute(files.tree.get(node & INO_MASK), name, value)

    @answers_errno
    async def removexattr(self, node: int, name: bytes, ctx: RequestContext) -> None:
        if node < FIRST:
            raise FUSEError(errno.EOPNOTSUPP)
        files = self._files(node)
        with files.lock:
            files.tree.remove_attribute(files.tree.get(node & INO_MASK), name)

    # --- contents ---

    def _opened(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        handle = node
        access = flags & os.O_ACCMODE
        if ctx.uid and access != os.O_RDONLY:
            handle |= _UNPRIVILEGED
            with self._hold(node) as tree:
                if _is_stranger(tree.get(node & INO_MASK), ctx):
                    handle |= _STRANGER
        if access == os.O_RDWR:
            handle |= _FOR_BOTH
            opened = self._files(node).opened_for_both
            opened[node] = opened.get(node, 0) + 1
        return FileInfo(fh=FileHandleT(handle), keep_cache=True)

    @answers_errno
    async def open(self, node: int, flags: int, ctx: RequestContext) -> FileInfo:
        if flags & os.O_ACCMODE != os.O_RDONLY or flags & os.O_TRUNC:
            files = self._files(node)
            if flags & os.O_TRUNC:
                with files.lock:
                    inode = files.tree.get(node & INO_MASK)
                    _lose_privileges(files.tree, inode, ctx)
                    files.tree.truncate(inode, 0)
        return self._opened(node, flags, ctx)

    @answers_errno
    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray:
        node = fh & _NODE
        hold = self._hold(node)
        for _ in range(LOADS):
            with hold as tree:
                inode = tree.get(node & INO_MASK)
                try:
                    data = tree.read_here(inode, offset, size)
                except MissingBlockError as missing:
                    where = (missing.object_id, missing.number)
                else:
                    self._was_read(node, inode)
                    break
            future = self._loader.load(tree.base, hold.lock, *where)
            await trio.to_thread.run_sync(future.result)
        else:  # flushes came between each time: read under the lock
            with hold as tree:
                inode = tree.get(node & INO_MASK)
                data = tree.read(inode, offset, size)
        if not offset % WINDOW_BYTES and inode.size > WINDOW_BYTES:
            self._loader.read_on(tree.base, hold.lock, inode.ino, offset, inode.size)
        return data

    @staticmethod
    def _was_read(node: int, inode: Inode) -> None:
        if not node & VIEW and inode.atime_ns <= max(inode.mtime_ns, inode.ctime_ns):
            # As relatime and lazytime do, mount(8): kept when the inode changes otherwise.
            inode.atime_ns = time.time_ns()
            inode.reply = None

    @answers_errno
    async def write(self, fh: int, offset: int, data: bytes) -> int:
        node = fh & _NODE
        files = self._files(node)
        tree = files.tree
        while tree.dirty_pages > DIRTY_PAGES:
            await trio.to_thread.run_sync(files.flush)
            tree = files.tree
        with files.lock:
            tree = files.tree
            inode = tree.get(node & INO_MASK)
            if fh & _UNPRIVILEGED:
                tree.lose_privileges(inode, by_stranger=bool(fh & _STRANGER))
            elif inode.attributes_ino:
                tree.lose_capabilities(inode)
            tree.write(inode, offset, data)
        if tree.dirty_pages > FLUSH_PAGES:
            self._flusher.hurry()
        return len(data)

    async def flush(self, fh: int) -> None:
        raise FUSEError(errno.ENOSYS)  # a write is in the tree when it returns: do not ask again

    @answers_errno
    async def release(self, fh: int) -> None:
        if fh & _FOR_BOTH:
            opened = self._files(fh & _NODE).opened_for_both
            opened[fh & _NODE] -= 1
            if not opened[fh & _NODE]:
                del opened[fh & _NODE]

    @answers_errno
    async def fsync(self, fh: int, datasync: bool) -> None:
        await self._sync(fh & _NODE)

    @answers_errno
    async def fsyncdir(self, fh: int, datasync: bool) -> None:
        await self._sync(self._directories[fh].node)

    async def _sync(self, node: int) -> None:
        if not node & VIEW:
            files = self._files(node)
            await trio.to_thread.run_sync(lambda: files.flush(wait=True))

    async def poll(self, node: int, fh: int, handle: object, ctx: RequestContext) -> int:
        return select.POLLIN | select.POLLRDNORM | select.POLLOUT | select.POLLWRNORM

    # --- directories ---

    @answers_errno
    async def opendir(self, node: int, ctx: RequestContext) -> FileHandleT:
        self._next_handle += 1
        self._directories[self._next_handle] = OpenDirectory(node)
        return FileHandleT(self._next_handle)

    @answers_errno
    async def readdir(self, fh: int, start: int, token: ReaddirToken) -> None:
        listing = self._directories[fh]
        node = listing.node
        with self._hold(node) as tree:
            directory = tree.get(node & INO_MASK)
            tree.trim(directory)
            if start == 0:
                listing.rewind(tree, directory)
            if start < 2 and not self._list_dots(listing, tree, directory, start, token):
                return
            self._list(listing, tree, directory, max(start, 2), token)

    def _list_dots(
        self, listing: OpenDirectory, tree: Tree, directory: Inode, start: int, token: ReaddirToken
    ) -> bool:
        """`.` and `..`, which the kernel is not told of for good."""
        for index, ino in list(enumerate((directory.ino, directory.parent)))[start:]:
            entry = self._attributes(listing.node, tree, tree.get(ino))
            if not pyfuse3.readdir_reply(token, FileNameT(b".."[: index + 1]), entry, index + 1):
                return False
        return True

    def _list(
        self, listing: OpenDirectory, tree: Tree, directory: Inode, start: int, token: ReaddirToken
    ) -> None:
        reply, get, lookups = pyfuse3.readdir_reply, tree.get, self._lookups
        now = tree.names(directory) if listing.is_changed(directory) else None
        names, index = listing.names, start
        while index - 2 < len(names) or listing.read_on(tree, directory, index - 2):
            name, ino = names[index - 2]
            index += 1
            if now is not None and now.get(name) != ino:
                continue  # removed since
            inode = get(ino)
            entry = inode.reply or self._attributes(listing.node, tree, inode)
            if not reply(token, name, entry, index):
                return
            number = entry.st_ino
            lookups[number] = lookups.get(number, 0) + 1

    async def releasedir(self, fh: int) -> None:
        del self._directories[fh]

    async def access(self, node: int, mode: int, ctx: RequestContext) -> bool:
        return True  # default_permissions: the kernel has checked

    # --- the kernel's caches ---

    def _sync_kernel_caches(self) -> None:
        """Have the kernel write back what shared mappings changed. Called from a worker thread."""
        for files in list(self._live.values()):
            for node in list(files.opened_for_both):
                _quietly(pyfuse3.invalidate_inode, node)

    def _forget_kernel_caches(self, old: Tree, new: Tree) -> None:
        """What the kernel keeps of a tree is of the one before: have it ask anew.

        Called from a worker thread: the kernel may write dirty pages back first, and waits for that.
        """
        oid = old.base.stream & (1 << 20) - 1
        place = LIVE | oid << INO_BITS
        known = [node for node in list(self._lookups) if node & ~INO_MASK == place]
        for node in known:
            ino = node & INO_MASK
            for name in _changed_names(old, new, ino):
                _quietly(pyfuse3.invalidate_entry, node, name)
            if _is_brought_back(old, new, ino):
                # The kernel makes nothing in a directory that was removed: it is to know another one.
                self._lives[node] = self._lives.get(node, 0) + 1
                new.get(ino).reply = None
        for node in known:
            _quietly(pyfuse3.invalidate_inode, node)


def _is_empty(fields: SetattrFields) -> bool:
    """chown(2) of neither owner nor group, which takes privileges away all the same."""
    return not (
        fields.update_size
        or fields.update_mode
        or fields.update_mtime
        or fields.update_atime
        or fields.update_ctime
    )


def _lose_privileges(tree: Tree, inode: Inode, ctx: RequestContext) -> None:
    """What a truncation takes away; of root's only capabilities, as of a write's."""
    if ctx.uid:
        tree.lose_privileges(inode, by_stranger=_is_stranger(inode, ctx))
    else:
        tree.lose_capabilities(inode)


def _is_stranger(inode: Inode, ctx: RequestContext) -> bool:
    """Whether a file is set-group-ID of a group that the caller is not in."""
    if not inode.mode & stat.S_ISGID or ctx.gid == inode.gid:
        return False
    try:
        return inode.gid not in pyfuse3.get_sup_groups(ctx.pid)
    except OSError:  # gone, or of a pid namespace that is not ours
        return True


def _changed_names(old: Tree, new: Tree, ino: int) -> list[bytes]:
    before, after = _names(old, ino), _names(new, ino)
    return [name for name, target in before.items() if after.get(name) != target]


def _is_brought_back(old: Tree, new: Tree, ino: int) -> bool:
    """Whether it is a directory that had been removed."""
    return _is_directory(new, ino) and not _is_directory(old, ino)


def _is_directory(tree: Tree, ino: int) -> bool:
    try:
        inode = tree.get(ino)
    except (OSError, SlosError):
        return False
    return inode.is_directory and inode.nlink > 0


def _names(tree: Tree, ino: int) -> dict[bytes, int]:
    try:
        inode = tree.get(ino)
        return tree.names(inode) if inode.is_directory else {}
    except (OSError, SlosError):
        return {}


def _quietly(notify: Callable[..., None], *args: Any) -> None:
    """The kernel may have forgotten it already (ENOENT)."""
    try:
        notify(*args)
    except OSError as error:
        if error.errno != errno.ENOENT:
            logger.warning("invalidation: %s", error)
