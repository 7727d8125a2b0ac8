"""The least that a file system on pyfuse3 can be: everything in dicts, nothing kept, nothing checked.

    python floor_fs.py MOUNTPOINT [xattr]

What it does in a second is the floor for any file system in Python on FUSE. With `xattr` it answers
questions for extended attributes (that there is none), as everything must that keeps access lists
or capabilities: the kernel then asks once before each write. Without, it says once that it has no
such thing, and is never asked again.
"""

import errno
import stat
import sys
from collections.abc import Sequence

import pyfuse3
import trio
from pyfuse3 import (
    EntryAttributes,
    FileInfo,
    FUSEError,
    ReaddirToken,
    RequestContext,
    SetattrFields,
)

LASTING_SECONDS = 86400.0


class Floor(pyfuse3.Operations):
    """Inodes are replies to the kernel; a directory is a dict, a file a bytearray."""

    def __init__(self) -> None:
        super().__init__()
        self._entries: dict[int, EntryAttributes] = {}
        self._names: dict[int, dict[bytes, int]] = {}
        self._contents: dict[int, bytearray] = {}
        self._listings: dict[int, list[tuple[bytes, int]]] = {}
        self._next = pyfuse3.ROOT_INODE
        self._make(stat.S_IFDIR | 0o777)

    def _make(self, mode: int) -> EntryAttributes:
        entry = EntryAttributes()
        number = self._next
        self._next += 1
        entry.st_ino = number
        entry.st_mode = mode
        entry.entry_timeout = entry.attr_timeout = LASTING_SECONDS
        self._entries[number] = entry
        if stat.S_ISDIR(mode):
            self._names[number] = {}
        else:
            self._contents[number] = bytearray()
        return entry

    async def lookup(self, parent: int, name: bytes, ctx: RequestContext) -> EntryAttributes:
        number = self._names[parent].get(name)
        if number is None:
            raise FUSEError(errno.ENOENT)
        return self._entries[number]

    async def getattr(self, inode: int, ctx: RequestContext) -> EntryAttributes:
        return self._entries[inode]

    async def setattr(
        self,
        inode: int,
        attr: EntryAttributes,
        fields: SetattrFields,
        fh: int | None,
        ctx: RequestContext,
    ) -> EntryAttributes:
        entry = self._entries[inode]
        if fields.update_size:
            del self._contents[inode][attr.st_size :]
            self._contents[inode].extend(bytes(attr.st_size - len(self._contents[inode])))
            entry.st_size = attr.st_size
        return entry

    async def create(
        self, parent: int, name: bytes, mode: int, flags: int, ctx: RequestContext
    ) -> tuple[FileInfo, EntryAttributes]:
        entry = self._make(mode)
        self._names[parent][name] = entry.st_ino
        return FileInfo(fh=entry.st_ino), entry

    async def mkdir(
        self, parent: int, name: bytes, mode: int, ctx: RequestContext
    ) -> EntryAttributes:
        entry = self._make(stat.S_IFDIR | mode)
        self._names[parent][name] = entry.st_ino
        return entry

    async def unlink(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        number = self._names[parent].pop(name)
        del self._entries[number], self._contents[number]

    async def rmdir(self, parent: int, name: bytes, ctx: RequestContext) -> None:
        number = self._names[parent].pop(name)
        del self._entries[number], self._names[number]

    async def rename(
        self,
        old_parent: int,
        old: bytes,
        new_parent: int,
        new: bytes,
        flags: int,
        ctx: RequestContext,
    ) -> None:
        self._names[new_parent][new] = self._names[old_parent].pop(old)

    async def open(self, inode: int, flags: int, ctx: RequestContext) -> FileInfo:
        return FileInfo(fh=inode)

    async def read(self, fh: int, offset: int, size: int) -> bytes | bytearray:
        return self._contents[fh][offset : offset + size]

    async def write(self, fh: int, offset: int, data: bytes) -> int:
        content = self._contents[fh]
        if offset > len(content):
            content.extend(bytes(offset - len(content)))
        content[offset : offset + len(data)] = data
        self._entries[fh].st_size = len(content)
        return len(data)

    async def flush(self, fh: int) -> None:
        return

    async def release(self, fh: int) -> None:
        return

    async def fsync(self, fh: int, datasync: bool) -> None:
        return

    async def opendir(self, inode: int, ctx: RequestContext) -> int:
        return inode

    async def readdir(self, fh: int, start: int, token: ReaddirToken) -> None:
        if not start:
            self._listings[fh] = list(self._names[fh].items())
        listing = self._listings[fh]
        for index in range(start, len(listing)):
            name, number = listing[index]
            if not pyfuse3.readdir_reply(token, name, self._entries[number], index + 1):
                return

    async def releasedir(self, fh: int) -> None:
        return

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        return


class WithAttributes(Floor):
    """As a file system that has extended attributes, in files that have none."""

    enable_acl = True

    async def getxattr(self, inode: int, name: bytes, ctx: RequestContext) -> bytes:
        raise FUSEError(errno.ENODATA)


def main(mountpoint: str, *, attributes: bool) -> None:
    operations = WithAttributes() if attributes else Floor()
    options = {"fsname=floor", "default_permissions", "allow_other"}
    pyfuse3.init(operations, mountpoint, options)
    try:
        trio.run(pyfuse3.main)
    finally:
        pyfuse3.close(unmount=True)


if __name__ == "__main__":
    main(sys.argv[1], attributes="xattr" in sys.argv[2:])
