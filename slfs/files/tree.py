"""Inodes, names and contents of one tree: what POSIX says of them, without FUSE and without a thread.

The kernel has checked permissions, name lengths of paths and loops before it asks. Errors are
OSError. Everything is kept in memory until `take` hands over what changed; what did not change is
read from the store when it is asked for. The caller holds one lock around every method.
"""

import errno
import os
import stat
import time
from collections.abc import Iterator
from typing import Final

import msgspec

from slfs.files import acl
from slfs.files.base import Base, Batch, InodePages
from slfs.files.cache import UNCUT, ZERO_PAGE, Content
from slfs.files.records import (
    MAX_NAME_BYTES,
    UNKNOWN,
    Header,
    Inode,
    Listing,
    decode_header,
    encode_header,
    encode_inode,
    encode_name,
    replay,
)
from slos.store import MAX_OBJECT_BYTES, PAGE_BYTES

POOLED_PAGES: Final = 4
RENAME_NOREPLACE: Final = 1
RENAME_EXCHANGE: Final = 2
MAX_LINKS: Final = 65000
MAX_TARGET_BYTES: Final = 4095
MAX_ATTRIBUTE_BYTES: Final = 64 << 10
KEPT_INODES: Final = 20_000
_ERASED: Final = bytes(128)
_ATTRIBUTES: Final = msgspec.msgpack.Decoder(dict[bytes, bytes])
_SPACES: Final = (b"user.", b"trusted.", b"security.")


def refused(code: int) -> OSError:
    """The error of a request that cannot be met."""
    return OSError(code, os.strerror(code))


class Tree:
    """One tree over what the store holds of it."""

    def __init__(self, base: Base, owner: tuple[int, int] = (0, 0), first_ino: int = 1) -> None:
        self.base = base
        self.dirty_pages = 0  # of contents, also those being flushed
        self.compactions = 0  # of directories' logs
        self._inodes: dict[int, Inode] = {}
        self._dirty: dict[int, Inode] = {}
        self._removed: dict[int, int] = {}
        self._records = InodePages(base)
        if base.epoch:
            header = decode_header(base.header())
        else:
            header = Header(root=first_ino, next_ino=first_ino + 1)
            self._inodes[first_ino] = _new_root(first_ino, owner)
        self.root = header.root
        self.next_ino = header.next_ino
        self.count = header.inodes
        self.orphans = set(header.orphans)

    @property
    def is_dirty(self) -> bool:
        return bool(self._dirty or self._removed)

    # --- inodes ---

    def get(self, ino: int) -> Inode:
        """The inode of a number; ESTALE where a rollback took it away."""
        found = self._inodes.get(ino)
        if found is None:
            found = None if ino in self._removed else self._records.load(ino)
            if found is None:
                raise refused(errno.ESTALE)
            self._inodes[ino] = found
        return found

    def touch(self, inode: Inode) -> None:
        """The inode changed: it is to be flushed, and its reply made anew."""
        inode.reply = None
        self._dirty[inode.ino] = inode

    def _make_inode(self, mode: int, uid: int, gid: int) -> Inode:
        inode = Inode(self.next_ino, mode, uid, gid, time.time_ns())
        self.next_ino += 1
        self.count += 1
        self._inodes[inode.ino] = inode
        self._dirty[inode.ino] = inode
        return inode

    def drop(self, ino: int) -> None:
        """An orphan is not open any more: its contents go."""
        self.orphans.discard(ino)
        inode = self.get(ino)
        self._erase(inode)
        if inode.attributes_ino:
            self._erase(self.get(inode.attributes_ino))
        self.count -= 1

    def _erase(self, inode: Inode) -> None:
        del self._inodes[inode.ino]
        self._dirty.pop(inode.ino, None)
        if inode.content is not None:
            self.dirty_pages -= len(inode.content.pages)
            inode.content.pages = {}
        self._removed[inode.ino] = -(-inode.size // PAGE_BYTES)

    def drop_orphans(self) -> None:
        """No file of this tree is open: a daemon before this one held them."""
        for ino in list(self.orphans):
            self.drop(ino)

    # --- names ---

    def directory(self, ino: int) -> Inode:
        """A directory with its names; ENOTDIR, ESTALE."""
        inode = self.get(ino)
        if inode.listing is None:
            if not inode.is_directory:
                raise refused(errno.ENOTDIR)
            inode.listing = replay(self.read(inode, 0, inode.size))
        return inode

    def names(self, inode: Inode) -> dict[bytes, int]:
        """The names of a directory."""
        if inode.listing is None:
            inode = self.directory(inode.ino)
        assert inode.listing is not None
        return inode.listing.names

    def lookup(self, parent: int, name: bytes) -> Inode:
        """The inode of a name; ENOENT, ENAMETOOLONG."""
        ino = self.names(self.directory(parent)).get(name)
        if ino is None:
            raise refused(errno.ENAMETOOLONG if len(name) > MAX_NAME_BYTES else errno.ENOENT)
        return self.get(ino)

    def _set_name(self, parent: Inode, name: bytes, ino: int) -> None:
        names = self.names(parent)
        if ino:
            names[name] = ino
        else:
            names.pop(name, None)
        assert parent.listing is not None
        parent.listing.changes += 1
        parent.listing.version += 1
        self._write(parent, parent.size, encode_name(name, ino))
        parent.mtime_ns = parent.ctime_ns = time.time_ns()
        self.touch(parent)

    def _place(self, parent: int, name: bytes) -> Inode:
        """The directory in which `name` can be made."""
        directory = self.directory(parent)
        if len(name) > MAX_NAME_BYTES:
            raise refused(errno.ENAMETOOLONG)
        if name in self.names(directory):
            raise refused(errno.EEXIST)
        if not directory.nlink:
            raise refused(errno.ENOENT)
        return directory

    def make(
        self,
        parent: int,
        name: bytes,
        mode: int,
        owner: tuple[int, int],
        *,
        umask: int = 0,
        rdev: int = 0,
        target: bytes | None = None,
    ) -> Inode:
        """A new file of any kind. EEXIST, ENAMETOOLONG, ENOENT (the directory is removed), EMLINK."""
        directory = self._place(parent, name)
        is_directory = stat.S_ISDIR(mode)
        if is_directory and directory.nlink >= MAX_LINKS:
            raise refused(errno.EMLINK)
        if target is not None and len(target) > MAX_TARGET_BYTES:
            raise refused(errno.ENAMETOOLONG)
        uid, gid = owner
        if directory.mode & stat.S_ISGID:
            gid = directory.gid
            if is_directory:
                mode |= stat.S_ISGID
        inherited: dict[bytes, bytes] = {}
        if not stat.S_ISLNK(mode):
            default = self._attributes(directory).get(acl.DEFAULT)
            if default is None:
                mode &= ~umask
            else:
                mode, inherited = acl.inherit(default, mode)
        inode = self._make_inode(mode, uid, gid)
        inode.rdev = rdev
        if target is not None:
            self._write(inode, 0, target)
        if is_directory:
            inode.nlink = 2
            inode.parent = directory.ino
            inode.listing = Listing()
            directory.nlink += 1
        if inherited:
            self._set_attributes(inode, inherited)
        self._set_name(directory, name, inode.ino)
        return inode

    def link(self, ino: int, parent: int, name: bytes) -> Inode:
        """One more name for a file. EEXIST, EMLINK, EPERM (a directory), ENOENT (it has none left)."""
        inode = self.get(ino)
        if inode.is_directory:
            raise refused(errno.EPERM)
        directory = self._place(parent, name)
        if not inode.nlink:
            raise refused(errno.ENOENT)
        if inode.nlink >= MAX_LINKS:
            raise refused(errno.EMLINK)
        inode.nlink += 1
        self._changed(inode)
        self._set_name(directory, name, ino)
        return inode

    def unlink(self, parent: int, name: bytes) -> Inode:
        """Take a name away; the inode, an orphan when that was its last. ENOENT, EISDIR."""
        directory = self.directory(parent)
        inode = self.lookup(parent, name)
        if inode.is_directory:
            raise refused(errno.EISDIR)
        self._set_name(directory, name, 0)
        self._lose_link(inode)
        return inode

    def remove_directory(self, parent: int, name: bytes) -> Inode:
        """Remove an empty directory. ENOENT, ENOTDIR, ENOTEMPTY."""
        directory = self.directory(parent)
        inode = self.lookup(parent, name)
        if self.names(inode):
            raise refused(errno.ENOTEMPTY)
        self._set_name(directory, name, 0)
        directory.nlink -= 1
        self._lose_link(inode)
        return inode

    def _lose_link(self, inode: Inode) -> None:
        inode.nlink = 0 if inode.is_directory else inode.nlink - 1
        if not inode.nlink:
            self.orphans.add(inode.ino)
        self._changed(inode)

    def _changed(self, inode: Inode) -> None:
        inode.ctime_ns = time.time_ns()
        self.touch(inode)

    def rename(
        self, old_parent: int, old: bytes, new_parent: int, new: bytes, flags: int
    ) -> Inode | None:
        """rename(2), renameat2(2); the inode that was replaced. WHITEOUT is EINVAL."""
        if flags & ~(RENAME_NOREPLACE | RENAME_EXCHANGE):
            raise refused(errno.EINVAL)
        source, target = self.directory(old_parent), self.directory(new_parent)
        inode = self.lookup(old_parent, old)
        if len(new) > MAX_NAME_BYTES:
            raise refused(errno.ENAMETOOLONG)
        other_ino = self.names(target).get(new)
        other = None if other_ino is None else self.get(other_ino)
        if flags & RENAME_EXCHANGE:
            if other is None:
                raise refused(errno.ENOENT)
            self._move(inode, source, target, new)
            self._move(other, target, source, old)
            return None
        if not target.nlink:
            raise refused(errno.ENOENT)
        if other is inode:
            return None
        if other is not None:
            self._check_replaceable(inode, other, flags)
            if other.is_directory:
                target.nlink -= 1
        elif inode.is_directory and source is not target and target.nlink >= MAX_LINKS:
            raise refused(errno.EMLINK)
        self._set_name(source, old, 0)
        self._move(inode, source, target, new)
        if other is not None:
            self._lose_link(other)
        return other

    def _check_replaceable(self, inode: Inode, other: Inode, flags: int) -> None:
        if flags & RENAME_NOREPLACE:
            raise refused(errno.EEXIST)
        if other.is_directory:
            if not inode.is_directory:
                raise refused(errno.EISDIR)
            if self.names(other):
                raise refused(errno.ENOTEMPTY)
        elif inode.is_directory:
            raise refused(errno.ENOTDIR)

    def _move(self, inode: Inode, source: Inode, target: Inode, name: bytes) -> None:
        if inode.is_directory and source is not target:
            inode.parent = target.ino
            source.nlink -= 1
            target.nlink += 1
            self.touch(source)
        self._set_name(target, name, inode.ino)
        self._changed(inode)

    # --- attributes ---

    def change_mode(self, inode: Inode, mode: int) -> None:
        """chmod(2): the access control list's mask follows."""
        inode.mode = stat.S_IFMT(inode.mode) | stat.S_IMODE(mode)
        access = self._attributes(inode).get(acl.ACCESS)
        if access is not None:
            attributes = dict(self._attributes(inode))
            attributes[acl.ACCESS] = acl.with_mode(access, mode)
            self._set_attributes(inode, attributes)
        self._changed(inode)

    def change_owner(self, inode: Inode, uid: int | None, gid: int | None) -> None:
        """chown(2): of anything but a directory the privileges go."""
        inode.uid = inode.uid if uid is None else uid
        inode.gid = inode.gid if gid is None else gid
        if not inode.is_directory:
            self.lose_privileges(inode)
        self._changed(inode)

    def lose_privileges(self, inode: Inode, *, by_stranger: bool = False) -> None:
        """What a write or a change of owner takes away: set-user-ID, set-group-ID, capabilities.

        `by_stranger`: of one who is not in the file's group. Of others a file that its group may not
        run keeps set-group-ID, which once stood for mandatory locks.
        """
        if inode.mode & (stat.S_ISUID | stat.S_ISGID):
            inode.mode &= ~stat.S_ISUID
            if by_stranger or inode.mode & stat.S_IXGRP:
                inode.mode &= ~stat.S_ISGID
            self._changed(inode)
        self.lose_capabilities(inode)

    def lose_capabilities(self, inode: Inode) -> None:
        """What a write takes away, whoever writes."""
        if inode.attributes_ino and b"security.capability" in self._attributes(inode):
            attributes = dict(self._attributes(inode))
            del attributes[b"security.capability"]
            self._set_attributes(inode, attributes)

    # --- extended attributes: one hidden file for each inode that has any ---

    def _attributes(self, inode: Inode) -> dict[bytes, bytes]:
        if inode.attributes is None:
            if not inode.attributes_ino:
                return {}
            data = self.read(self.get(inode.attributes_ino), 0, inode.attributes_bytes)
            inode.attributes = _ATTRIBUTES.decode(data)
        return inode.attributes

    def _set_attributes(self, inode: Inode, attributes: dict[bytes, bytes]) -> None:
        data = msgspec.msgpack.encode(attributes)
        if not inode.attributes_ino:
            inode.attributes_ino = self.next_ino
            self.next_ino += 1
        inode.attributes = attributes
        inode.attributes_bytes = len(data)
        # A record beside that of the file; it is in no directory and has no name.
        hidden = self._inodes.get(inode.attributes_ino)
        if hidden is None:
            hidden = self._records.load(inode.attributes_ino) or Inode(
                inode.attributes_ino, stat.S_IFREG, 0, 0, 0
            )
            self._inodes[hidden.ino] = hidden
        if len(data) < hidden.size:
            self.truncate(hidden, len(data))
        self._write(hidden, 0, data)
        self.touch(inode)

    def attribute(self, inode: Inode, name: bytes) -> bytes:
        """The value of one; ENODATA, ENOTSUP, EINVAL."""
        _check_space(name)
        value = self._attributes(inode).get(name) if inode.attributes_ino else None
        if value is None:
            raise refused(errno.ENODATA)
        return value

    def attribute_names(self, inode: Inode) -> list[bytes]:
        """The names of all."""
        return list(self._attributes(inode))

    def set_attribute(self, inode: Inode, name: bytes, value: bytes) -> None:
        """ENOTSUP for a name space that there is none of, ENOSPC beyond 64 KiB in all."""
        attributes = dict(self._attributes(inode))
        if name in (acl.ACCESS, acl.DEFAULT):
            self._set_acl(inode, name, value, attributes)
        else:
            _check_space(name)
            attributes[name] = value
        if sum(map(len, attributes)) + sum(map(len, attributes.values())) > MAX_ATTRIBUTE_BYTES:
            raise refused(errno.ENOSPC)
        self._set_attributes(inode, attributes)
        self._changed(inode)

    def _set_acl(
        self, inode: Inode, name: bytes, value: bytes, attributes: dict[bytes, bytes]
    ) -> None:
        if name == acl.DEFAULT:
            if not inode.is_directory:
                raise refused(errno.EACCES)
            attributes[name] = value
            return
        mode = acl.mode_of(value)
        inode.mode = (inode.mode & ~0o777) | mode
        if acl.is_minimal(value):
            attributes.pop(name, None)
        else:
            attributes[name] = value

    def remove_attribute(self, inode: Inode, name: bytes) -> None:
        """ENODATA where there is none; of a list that is not there nothing remains to be removed."""
        if name in (acl.ACCESS, acl.DEFAULT) and name not in self._attributes(inode):
            return
        self.attribute(inode, name)
        attributes = dict(self._attributes(inode))
        del attributes[name]
        self._set_attributes(inode, attributes)
        self._changed(inode)

    # --- contents ---

    def _page(self, inode: Inode, number: int) -> bytes | bytearray:
        if inode.content is not None:
            found = inode.content.find(number)
            if found is not None:
                return found
        if number * PAGE_BYTES >= inode.size:
            return ZERO_PAGE  # nothing lies beyond the end
        return self.base.pages(inode.ino, number, 1)

    def read(self, inode: Inode, offset: int, length: int) -> bytes:
        """Bytes; short at the end of the file."""
        return bytes(self._read(inode, offset, length, only_here=False))

    def read_here(self, inode: Inode, offset: int, length: int) -> bytes | bytearray:
        """`read` without waiting for the store: MissingBlockError. Use the bytes at once."""
        return self._read(inode, offset, length, only_here=True)

    def _read(
        self, inode: Inode, offset: int, length: int, *, only_here: bool
    ) -> bytes | bytearray:
        length = min(length, inode.size - offset)
        if length <= 0:
            return b""
        first, end = offset // PAGE_BYTES, -(-(offset + length) // PAGE_BYTES)
        content = inode.content
        if content is None:
            data = self.base.pages(inode.ino, first, end - first, only_here=only_here)
        else:
            found = content.find_all(first, end)
            if found is None:
                found = list(self._pieces(inode, content, first, end, only_here))
            data = found[0] if len(found) == 1 else b"".join(found)
        start = offset - first * PAGE_BYTES
        return data if start == 0 and len(data) == length else data[start : start + length]

    def _pieces(
        self, inode: Inode, content: Content, first: int, end: int, only_here: bool
    ) -> Iterator[bytes | bytearray]:
        asked = first  # pages [asked, number) are to be had from the store
        for number in range(first, end):
            page = content.find(number)
            if page is not None:
                if asked < number:
                    yield self.base.pages(inode.ino, asked, number - asked, only_here=only_here)
                yield page
                asked = number + 1
        if asked < end:
            yield self.base.pages(inode.ino, asked, end - asked, only_here=only_here)

    def write(self, inode: Inode, offset: int, data: bytes) -> None:
        """write(2). EFBIG."""
        if offset + len(data) > MAX_OBJECT_BYTES - 1:
            raise refused(errno.EFBIG)
        self._write(inode, offset, data)
        inode.mtime_ns = inode.ctime_ns = time.time_ns()

    def _write(self, inode: Inode, offset: int, data: bytes) -> None:
        if inode.content is None:
            inode.content = Content()
        pages = inode.content.pages
        before = len(pages)
        self._count_new(inode, offset, len(data))
        number, start = divmod(offset, PAGE_BYTES)
        position, length = 0, len(data)
        if start or length < PAGE_BYTES:
            position = min(length, PAGE_BYTES - start)
            self._write_part(inode, number, start, data[:position])
            number += 1
        while length - position >= PAGE_BYTES:
            pages[number] = data[position : position + PAGE_BYTES]
            number += 1
            position += PAGE_BYTES
        if position < length:
            self._write_part(inode, number, 0, data[position:])
        self.dirty_pages += len(pages) - before
        if offset + length > inode.size:
            inode.size = offset + length
        inode.reply = None
        self._dirty[inode.ino] = inode

    def _write_part(self, inode: Inode, number: int, start: int, data: bytes) -> None:
        assert inode.content is not None
        page = inode.content.pages.get(number)
        if not isinstance(page, bytearray):
            page = inode.content.pages[number] = bytearray(self._page(inode, number))
        page[start : start + len(data)] = data

    def _count_new(self, inode: Inode, offset: int, length: int) -> None:
        """Keep `pages` true as long as that is cheap: for files without holes."""
        if inode.pages == UNKNOWN:
            return
        held = -(-inode.size // PAGE_BYTES)
        if inode.pages != held or offset // PAGE_BYTES > held:
            inode.pages = UNKNOWN
        else:
            inode.pages = max(held, -(-(offset + length) // PAGE_BYTES))

    def data_pages(self, inode: Inode) -> int:
        """How many pages hold data."""
        if inode.pages == UNKNOWN:
            runs = list(self.base.data_pages(inode.ino))
            inode.pages = sum(end - first for first, end in runs)
            if inode.content is not None:
                inode.pages = self._count(inode.content, runs)
        return inode.pages

    @staticmethod
    def _count(content: Content, runs: list[tuple[int, int]]) -> int:
        found: set[int] = set()
        lower = min(content.cut, content.flushing_cut)
        for first, end in runs:
            found.update(range(first, min(end, lower)))
        for layer, cut in ((content.flushing or {}, content.cut), (content.pages, UNCUT)):
            for number, page in layer.items():
                if page is ZERO_PAGE:
                    found.discard(number)
                elif number < cut:
                    found.add(number)
        return len(found)

    def truncate(self, inode: Inode, size: int) -> None:
        """ftruncate(2). EFBIG."""
        if size > MAX_OBJECT_BYTES - 1:
            raise refused(errno.EFBIG)
        if size < inode.size:
            self._cut(inode, size)
        elif size > inode.size:
            inode.pages = UNKNOWN
        inode.size = size
        inode.mtime_ns = time.time_ns()
        self._changed(inode)

    def _cut(self, inode: Inode, size: int) -> None:
        if inode.content is None:
            inode.content = Content()
        content = inode.content
        edge, start = divmod(size, PAGE_BYTES)
        before = len(content.pages)
        if start:
            page = bytearray(self._page(inode, edge))
            page[start:] = bytes(PAGE_BYTES - start)
            content.pages[edge] = page
            edge += 1
        held = -(-inode.size // PAGE_BYTES)
        was_whole = content.cut == UNCUT
        content.cut_at(max(edge, POOLED_PAGES))
        for number in range(edge, min(held, POOLED_PAGES)):
            content.pages[number] = ZERO_PAGE
        if held <= POOLED_PAGES and was_whole:
            content.cut = UNCUT  # there is nothing behind the first pages, and nothing was cut off
        self.dirty_pages += len(content.pages) - before
        if inode.pages == held:
            inode.pages = edge
        else:
            inode.pages = UNKNOWN

    # --- flushing ---

    def take(self) -> Batch | None:
        """Everything that changed since the last `take`, as of now; None when nothing did."""
        if not self.is_dirty:
            return None
        for inode in list(self._dirty.values()):
            listing = inode.listing
            if listing is not None and listing.changes > 2 * len(listing.names) + 256:
                self._compact(inode, listing)
        batch = self._make_batch()
        self._dirty = {}
        self._removed = {}
        return batch

    def _make_batch(self) -> Batch:
        records = self._records
        for ino, inode in self._dirty.items():
            records.set(ino, encode_inode(inode))
        for ino in self._removed:
            records.set(ino, _ERASED)
        header = Header(
            root=self.root,
            next_ino=self.next_ino,
            inodes=self.count,
            orphans=tuple(sorted(self.orphans)),
        )
        batch = Batch(encode_header(header), records.take())
        batch.removed = list(self._removed.items())
        for inode in self._dirty.values():
            content = inode.content
            if content is not None and content.is_dirty:
                content.take()
                assert content.flushing is not None
                batch.inodes.append(inode)
                batch.contents.append((inode.ino, content.flushing, content.flushing_cut))
        return batch

    def _compact(self, inode: Inode, listing: Listing) -> None:
        """Write a directory's log anew: one entry a name."""
        data = b"".join([encode_name(name, ino) for name, ino in listing.names.items()])
        self._cut(inode, 0)
        inode.size = 0
        listing.changes = len(listing.names)
        self.compactions += 1
        if data:
            self._write(inode, 0, data)

    def settle(self, batch: Batch, epoch: int) -> None:
        """The batch is in the store, as that epoch."""
        self.base.advance(epoch, batch)
        for inode in batch.inodes:
            content = inode.content
            assert content is not None
            self.dirty_pages -= content.settle()
            if not content.is_dirty:
                inode.content = None
        self._records.trim()
        if len(self._inodes) > KEPT_INODES:
            self._evict()

    def put_back(self, batch: Batch) -> None:
        """The batch could not be written: all of it is still to be flushed."""
        for inode in batch.inodes:
            assert inode.content is not None
            self.dirty_pages -= inode.content.put_back()
            if inode.ino in self._inodes:
                self._dirty.setdefault(inode.ino, inode)
            else:
                self.dirty_pages -= len(inode.content.pages)
        for ino, count in batch.removed:
            self._removed.setdefault(ino, count)
        self._records.dirty.update(batch.inode_pages)
        self._dirty.setdefault(self.root, self.get(self.root))

    def trim(self, keep: Inode) -> None:
        """Between two requests: where very many inodes were looked at, forget the oldest but `keep`."""
        if len(self._inodes) > KEPT_INODES:
            self._evict()
            self._inodes.setdefault(keep.ino, keep)

    def _evict(self) -> None:
        """Forget the oldest half of what is not changed and not an orphan."""
        for ino in list(self._inodes)[: KEPT_INODES // 2]:
            inode = self._inodes[ino]
            if ino not in self._dirty and inode.content is None:
                del self._inodes[ino]


def _check_space(name: bytes) -> None:
    """ENOTSUP for a name space that there is none of, EINVAL for one without a name in it."""
    if name in _SPACES:
        raise refused(errno.EINVAL)
    if not name.startswith(_SPACES) and name not in (acl.ACCESS, acl.DEFAULT):
        raise refused(errno.ENOTSUP)


def _new_root(ino: int, owner: tuple[int, int]) -> Inode:
    root = Inode(ino, stat.S_IFDIR | 0o755, *owner, time.time_ns())
    root.nlink = 2
    root.parent = ino
    root.listing = Listing()
    return root
