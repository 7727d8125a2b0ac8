"""The filesystem as the kernel calls it, and the mount itself. The one module that imports pyfuse3.

Every request runs in trio's loop and never waits there for a partition or the store: what may block
runs in a worker thread. The kernel checks file modes (default_permissions).
"""

import errno
import logging
import os
import select
import signal
import sys
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from functools import partial, wraps
from typing import Any, Concatenate, Final, ParamSpec, TypeVar, cast

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileHandleT,
    FileInfo,
    FileNameT,
    FlagT,
    FUSEError,
    InodeT,
    ModeT,
    PollHandle,
    ReaddirToken,
    RequestContext,
    SetattrFields,
    StatvfsData,
)

from libsls import protocol
from libsls.protocol import File
from slfs.access import Caller
from slfs.commands import Commands
from slfs.contract import PartitionFactory
from slfs.daemon import Starter, configure_logging, print_error, start_in_background
from slfs.errors import EXPECTED_ERRORS, MountError, errno_of
from slfs.files.operations import FileOperations
from slfs.files.router import Router
from slfs.generations import GenerationsDirectory
from slfs.handshake import agree, devices
from slfs.inodes import (
    Attributes,
    ControlFile,
    Directory,
    FilesDirectory,
    Handle,
    InodeTable,
    Node,
    Parts,
    RegularFile,
    RootDirectory,
    Symlink,
)
from slfs.mounting import check_mountpoint, open_store
from slfs.options import USAGE, MountRequest, UsageError, parse_command_line
from slfs.processes import Within
from slfs.registry import Registry
from slfs.tags import TagsDirectory
from slfs.top import TOP_FILES
from slos.errors import SlosError
from sls.priority import give_way

logger = logging.getLogger("slfs")

MAX_READERS: Final = 16  # threads that read the store for open and readdir
LASTING_SECONDS: Final = 60.0
BRIEF_SECONDS: Final = 1.0
BLOCK_BYTES: Final = 4096
ROOM_SECONDS: Final = 0.05  # how long what statfs(2) told is told again
# How long a thread that works for the store may keep the loop, which answers the kernel, waiting.
SWITCH_SECONDS: Final = 0.0005
LISTED_AT_ONCE: Final = 64  # names of a listing that one turn of a reader looks up

PARTS: Final[Parts] = {
    protocol.GENERATIONS: GenerationsDirectory,
    protocol.TAGS: TagsDirectory,
}

P = ParamSpec("P")
R = TypeVar("R")


def answers_errno(
    handler: Callable[Concatenate["Filesystem", P], Awaitable[R]],
) -> Callable[Concatenate["Filesystem", P], Coroutine[Any, Any, R]]:
    """The one wrapper that turns errors into errnos; a defect is EIO and a log entry, not the end."""

    @wraps(handler)
    async def answer(self: "Filesystem", /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return await handler(self, *args, **kwargs)
        except FUSEError:
            raise
        except EXPECTED_ERRORS as error:
            self.registry.last_error = f"{handler.__name__}: {error}"
            raise FUSEError(errno_of(error)) from error
        except Exception as error:
            logger.exception("defect in %s", handler.__name__)
            self.registry.last_error = f"{handler.__name__}: defect: {error!r}"
            raise FUSEError(errno.EIO) from error

    return answer


class OpenDirectory:
    """A directory being listed: the names at opendir."""

    def __init__(self, node: Directory, names: Sequence[bytes]) -> None:
        self.node = node
        self.names = names


class OpenFile:
    """An open file with who opened it: writes act in his name."""

    def __init__(self, node: RegularFile, handle: Handle, caller: Caller) -> None:
        self.node = node
        self.handle = handle
        self.caller = caller


class Filesystem(pyfuse3.Operations):
    """Requests of the kernel, carried to the tree and to commands."""

    def __init__(self, registry: Registry, commands: Commands) -> None:
        super().__init__()
        self.registry = registry
        self.trees = FileOperations()
        self._commands = commands
        self._inodes = InodeTable(RootDirectory(registry, TOP_FILES, PARTS))
        self._readers = trio.CapacityLimiter(MAX_READERS)
        self._files: dict[int, OpenFile] = {}
        self._directories: dict[int, OpenDirectory] = {}
        self._next_handle = 1
        self._room: StatvfsData | None = None
        self._room_until = 0.0
        self.router = Router(self, self.trees)
        # Guards notifications, which come from any thread, against the end of the session.
        self._notifying = threading.Lock()
        self._is_mounted = True

    def stop_notifying(self) -> None:
        """No poller is woken from here on: the session is about to end."""
        with self._notifying:
            self._is_mounted = False

    def _wake(self, handle: PollHandle) -> None:
        with self._notifying:
            if not self._is_mounted:
                return
            try:
                handle.notify()
            except OSError as error:  # ENOENT: the file was closed meanwhile
                logger.debug("poll notification: %s", error)

    # --- names and attributes ---

    async def _run(self, node: Node, function: Callable[..., R], *args: object) -> R:
        if node.is_slow:
            return await trio.to_thread.run_sync(function, *args, limiter=self._readers)
        return function(*args)

    def _directory(self, inode: InodeT) -> Directory:
        node = self._inodes.node(inode)
        if not isinstance(node, Directory):
            raise FUSEError(errno.ENOTDIR)
        return node

    async def _entry(self, node: Node) -> EntryAttributes:
        """The reply that makes the kernel remember `node`."""
        if isinstance(node, FilesDirectory):
            return await self.trees.root_entry(node)
        entry = await self._attributes(node, 0)
        entry.st_ino = self._inodes.remember(node)
        return entry

    async def _listed_entry(self, node: Node, attributes: Attributes | None) -> EntryAttributes:
        """`_entry` of a node whose attributes are known."""
        if attributes is None:
            return await self._entry(node)
        return _to_entry(attributes, self._inodes.remember(node))

    async def _attributes(self, node: Node, inode: int) -> EntryAttributes:
        if node.is_at_hand:
            return _to_entry(node.attributes(), inode)
        return _to_entry(await self._run(node, node.attributes), inode)

    @answers_errno
    async def lookup(
        self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._directory(parent_inode)
        _refuse_own(directory, ctx)
        if name in (b".", b".."):
            raise FUSEError(errno.ENOENT)  # asked by NFS servers only
        if not directory.is_slow:
            node = directory.lookup(name)
            if node is None:
                raise FUSEError(errno.ENOENT)
            return await self._entry(node)
        found, attributes = await self._run(directory, _look_up_one, directory, name)
        if found is None:
            raise FUSEError(errno.ENOENT)
        return await self._listed_entry(found, attributes)

    async def forget(self, inode_list: Sequence[tuple[InodeT, int]]) -> None:
        for inode, count in inode_list:
            self._inodes.forget(inode, count)

    @answers_errno
    async def getattr(self, inode: InodeT, ctx: RequestContext) -> EntryAttributes:
        node = self._inodes.node(inode)
        _refuse_own(node, ctx)
        return await self._attributes(node, inode)

    @answers_errno
    async def setattr(
        self,
        inode: InodeT,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: FileHandleT | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        node = self._inodes.node(inode)
        if fields.update_mode or fields.update_uid or fields.update_gid:
            raise node.refuse("a change of mode or owner")
        if not (isinstance(node, ControlFile) and node.is_writable):
            raise node.refuse("a change of size or time")
        # O_TRUNC before a write changes nothing: a command is what is written.
        if fields.update_mtime and node.file is File.CHECKPOINT:
            await self._commands.execute(node.entry, node.file, b"", _caller(ctx))
        return await self._attributes(node, inode)

    @answers_errno
    async def readlink(self, inode: InodeT, ctx: RequestContext) -> FileNameT:
        node = self._inodes.node(inode)
        assert isinstance(node, Symlink)
        return await self._run(node, node.target)

    # --- making and removing ---

    @answers_errno
    async def mkdir(
        self, parent_inode: InodeT, name: FileNameT, mode: ModeT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._directory(parent_inode)
        node = await self._run(directory, directory.make_directory, name, _caller(ctx))
        return await self._entry(node)

    @answers_errno
    async def rmdir(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self._directory(parent_inode)
        await self._run(directory, directory.remove_directory, name, _caller(ctx))

    @answers_errno
    async def unlink(self, parent_inode: InodeT, name: FileNameT, ctx: RequestContext) -> None:
        directory = self._directory(parent_inode)
        await self._run(directory, directory.remove_file, name, _caller(ctx))

    @answers_errno
    async def mknod(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        rdev: int,
        ctx: RequestContext,
    ) -> EntryAttributes:
        raise self._directory(parent_inode).refuse("mknod")

    @answers_errno
    async def create(
        self,
        parent_inode: InodeT,
        name: FileNameT,
        mode: ModeT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> tuple[FileInfo, EntryAttributes]:
        raise self._directory(parent_inode).refuse("create")

    @answers_errno
    async def symlink(
        self, parent_inode: InodeT, name: FileNameT, target: FileNameT, ctx: RequestContext
    ) -> EntryAttributes:
        directory = self._directory(parent_inode)
        node = await self._run(directory, directory.make_symlink, name, target, _caller(ctx))
        return await self._entry(node)

    @answers_errno
    async def link(
        self,
        inode: InodeT,
        new_parent_inode: InodeT,
        new_name: FileNameT,
        ctx: RequestContext,
    ) -> EntryAttributes:
        raise self._directory(new_parent_inode).refuse("link")

    @answers_errno
    async def rename(
        self,
        parent_inode_old: InodeT,
        name_old: FileNameT,
        parent_inode_new: InodeT,
        name_new: FileNameT,
        flags: FlagT,
        ctx: RequestContext,
    ) -> None:
        directory = self._directory(parent_inode_old)
        if directory.identity != self._directory(parent_inode_new).identity:
            raise directory.refuse("rename")
        await self._run(directory, directory.rename_within, name_old, name_new, flags, _caller(ctx))

    # --- files ---

    @answers_errno
    async def open(self, inode: InodeT, flags: FlagT, ctx: RequestContext) -> FileInfo:
        node = self._inodes.node(inode)
        assert isinstance(node, RegularFile)
        _refuse_own(node, ctx)
        is_writable = isinstance(node, ControlFile) and node.is_writable
        if flags & os.O_ACCMODE != os.O_RDONLY and not is_writable:
            raise node.refuse("writing")
        number = self._new_handle()
        handle = node.open() if node.is_at_hand else await self._run(node, node.open)
        self._files[number] = OpenFile(node, handle, _caller(ctx))
        # A text is made anew at each pass: the kernel must neither keep it nor trust a size.
        return FileInfo(fh=FileHandleT(number), direct_io=not node.keeps_pages)

    @answers_errno
    async def read(self, fh: FileHandleT, off: int, size: int) -> bytes:
        file = self._files[fh]
        return await self._run(file.node, file.handle.read, off, size)

    @answers_errno
    async def write(self, fh: FileHandleT, off: int, buf: bytes) -> int:
        file = self._files[fh]
        assert isinstance(file.node, ControlFile)
        await self._commands.execute(file.node.entry, file.node.file, buf, file.caller)
        return len(buf)

    @answers_errno
    async def fsync(self, fh: FileHandleT, datasync: bool) -> None:
        node = self._files[fh].node
        if isinstance(node, ControlFile) and node.file is File.CHECKPOINT:
            await self._commands.wait_durable(node.entry)

    async def flush(self, fh: FileHandleT) -> None:
        raise FUSEError(
            errno.ENOSYS
        )  # a write's outcome is known when it returns: do not ask again

    async def release(self, fh: FileHandleT) -> None:
        del self._files[fh]

    @answers_errno
    async def poll(
        self,
        inode: InodeT,
        fh: FileHandleT,
        poll_handle: PollHandle | None,
        ctx: RequestContext,
    ) -> int:
        file = self._files[fh]
        watch = file.handle.watch
        if watch is not None and poll_handle is not None:
            watch.add(partial(self._wake, poll_handle))
            if isinstance(file.node, ControlFile):
                self._commands.watch_durability(file.node.entry)
        events = select.POLLIN | select.POLLRDNORM if file.handle.is_readable() else 0
        if isinstance(file.node, ControlFile) and file.node.is_writable:
            events |= select.POLLOUT | select.POLLWRNORM
        return events

    # --- directories ---

    def _new_handle(self) -> int:
        self._next_handle += 1
        return self._next_handle

    @answers_errno
    async def opendir(self, inode: InodeT, ctx: RequestContext) -> FileHandleT:
        directory = self._directory(inode)
        names = await self._run(directory, directory.names)
        number = self._new_handle()
        self._directories[number] = OpenDirectory(directory, names)
        return FileHandleT(number)

    @answers_errno
    async def readdir(self, fh: FileHandleT, start_id: int, token: ReaddirToken) -> None:
        listing = self._directories[fh]
        directory = listing.node
        for start in range(start_id, len(listing.names), LISTED_AT_ONCE):
            names = listing.names[start : start + LISTED_AT_ONCE]
            found = await self._run(directory, _look_up, directory, names)
            for index, name, node, attributes in found:
                entry = await self._listed_entry(node, attributes)
                reply = (token, FileNameT(name), entry, start + index + 1)
                if not pyfuse3.readdir_reply(*reply):
                    await self.router.forget([(entry.st_ino, 1)])
                    return

    async def releasedir(self, fh: FileHandleT) -> None:
        del self._directories[fh]

    @answers_errno
    async def fsyncdir(self, fh: FileHandleT, datasync: bool) -> None:
        await trio.to_thread.run_sync(self.registry.store.sync)

    @answers_errno
    async def statfs(self, ctx: RequestContext) -> StatvfsData:
        now = trio.current_time()
        if self._room is None or now > self._room_until:
            self._room = await self._measure_room()
            self._room_until = now + ROOM_SECONDS
        return self._room

    async def _measure_room(self) -> StatvfsData:
        statistics = await trio.to_thread.run_sync(self.registry.store.statistics)
        data = StatvfsData()
        data.f_bsize = data.f_frsize = BLOCK_BYTES
        # The store grows into the room of the file system that it lies on.
        room = statistics.free_bytes + await trio.to_thread.run_sync(self.registry.room_bytes)
        used = max(0, statistics.file_bytes - statistics.free_bytes)
        data.f_blocks = (used + room) // BLOCK_BYTES
        data.f_bfree = data.f_bavail = room // BLOCK_BYTES
        data.f_files = (1 << 40) + self.trees.count()
        data.f_ffree = data.f_favail = 1 << 40
        data.f_namemax = 255
        return data


def _to_entry(attributes: Attributes, inode: int) -> EntryAttributes:
    """What stat(2) tells, as the kernel takes it."""
    entry = EntryAttributes()
    entry.st_ino = inode
    entry.st_mode = attributes.mode
    entry.st_nlink = attributes.links
    entry.st_uid = attributes.owner.uid
    entry.st_gid = attributes.owner.gid
    entry.st_size = attributes.size
    entry.st_blksize = attributes.block_bytes
    stored = attributes.size if attributes.stored_bytes is None else attributes.stored_bytes
    entry.st_blocks = -(-stored // 512)
    entry.st_atime_ns = entry.st_mtime_ns = entry.st_ctime_ns = attributes.time_ns
    entry.attr_timeout = entry.entry_timeout = LASTING_SECONDS if attributes.is_lasting else 0
    if attributes.has_lasting_name:
        entry.entry_timeout, entry.attr_timeout = LASTING_SECONDS, BRIEF_SECONDS
    return entry


def _look_up_one(directory: Directory, name: bytes) -> tuple[Node | None, Attributes | None]:
    """A node with its attributes, in one turn of a reader."""
    node = directory.lookup(name)
    if node is None or isinstance(node, FilesDirectory):
        return node, None
    return node, node.attributes()


Found = list[tuple[int, bytes, Node, Attributes | None]]


def _look_up(directory: Directory, names: Sequence[bytes]) -> Found:
    """Place, name, node and attributes of those names that are still there; a tree of files tells its own."""
    found: Found = []
    for index, name in enumerate(names):
        node = directory.lookup(name)
        if isinstance(node, FilesDirectory):
            found.append((index, name, node, None))
        elif node is not None:
            found.append((index, name, node, node.listed_attributes()))
    return found


def _refuse_own(node: Node, ctx: RequestContext) -> None:
    """ELOOP for this process's own threads within a generation.

    They read mapped files by path, and a path may have been made to lead back here: each round would hold a thread.
    """
    if isinstance(node, Within) and os.path.exists(f"/proc/self/task/{ctx.pid}"):
        raise FUSEError(errno.ELOOP)


def _caller(ctx: RequestContext) -> Caller:
    return Caller(ctx.uid, ctx.gid, ctx.pid)


# --- the mount --------------------------------------------------------------------------------


async def _terminate_on_signal(*, task_status: Any) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT, signal.SIGHUP) as signals:
        task_status.started()
        async for _ in signals:
            pyfuse3.terminate()
            return


async def _serve(registry: Registry, request: MountRequest, starter: Starter) -> None:
    """Mount and answer until unmounted or told to end. Accepted commands are carried out. Raises MountError."""
    failure = None
    async with trio.open_nursery() as accepted, trio.open_nursery() as helpers:
        filesystem = Filesystem(registry, Commands(accepted))
        await helpers.start(_terminate_on_signal)
        inherited = devices()
        try:
            operations = cast(pyfuse3.Operations, filesystem.router)
            pyfuse3.init(operations, str(request.mountpoint), request.fuse_options())
        except RuntimeError as error:
            failure = error  # raised here, it would leave the nurseries in groups
        else:
            await _answer(filesystem, inherited, starter)
        finally:
            helpers.cancel_scope.cancel()
    if failure is not None:
        raise MountError(
            f"{request.mountpoint}: mounting failed ({failure}); is /dev/fuse usable?"
        ) from failure


async def _answer(filesystem: Filesystem, inherited: set[int], starter: Starter) -> None:
    try:
        (device,) = devices() - inherited
        await agree(device, partial(pyfuse3.main, max_tasks=1))
        starter.succeed()
        await pyfuse3.main()
    finally:
        filesystem.stop_notifying()
        pyfuse3.close(unmount=True)
        filesystem.trees.close()


def serve(request: MountRequest, starter: Starter, make_partition: PartitionFactory) -> None:
    """Open the store, mount, answer, flush, close. Raises MountError, SlosError."""
    check_mountpoint(request.mountpoint)
    registry = Registry(open_store(request), make_partition, request.store)
    sys.setswitchinterval(SWITCH_SECONDS)
    give_way()
    try:
        trio.run(_serve, registry, request, starter)
    finally:
        for failure in registry.close():
            logger.error("closing: %s", failure)


def run(arguments: Sequence[str], make_partition: PartitionFactory) -> int:
    """The program `slfs`. Exit status 0 when mounted (or, in the foreground, unmounted again)."""
    try:
        request = parse_command_line(arguments)
    except UsageError as error:
        print_error(f"{error}\n{USAGE}")
        return error.exit_status
    if request is None:
        sys.stdout.write(USAGE + "\n")
        return 0
    # Where it is ignored, nobody hears of an end, nor do the tracers that are started from here: wait(2).
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    starter = Starter() if request.foreground else start_in_background()
    configure_logging(foreground=request.foreground)
    try:
        serve(request, starter, make_partition)
    except (MountError, SlosError) as error:
        starter.fail(str(error))
        return error.exit_status
    return 0
