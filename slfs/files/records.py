"""What the store holds of a tree, as bytes: inode records, directory logs, the header.

An inode record has a fixed size, so that its place follows from its number. A directory is a log of
names set and taken away, replayed when it is first looked at. Pure.
"""

import stat
from collections.abc import Iterator
from struct import Struct
from typing import Any, Final

import msgspec

from slfs.files.cache import Content

RECORD_BYTES: Final = 128
MAX_NAME_BYTES: Final = 255
UNKNOWN: Final = -1

# mode nlink uid gid rdev size atime mtime ctime parent pages attributes_ino attributes_bytes plain_names
_RECORD: Final = Struct("<4I2Q3qQqQIQ36x")
assert _RECORD.size == RECORD_BYTES
_LOG_HEAD: Final = Struct("<QH")  # inode, 0 for a name taken away; bytes of the name behind it


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What there is one of in a tree. `orphans` have no name left but were open."""

    version: int = 1
    root: int = 1
    next_ino: int = 2
    inodes: int = 1
    orphans: tuple[int, ...] = ()


_encode_header = msgspec.msgpack.Encoder().encode
_decode_header = msgspec.msgpack.Decoder(Header).decode


def encode_header(header: Header) -> bytes:
    """Length first: the object around it is whole pages."""
    body = _encode_header(header)
    return len(body).to_bytes(4, "little") + body


def decode_header(data: bytes) -> Header:
    """Raises msgspec.ValidationError where it is none."""
    length = int.from_bytes(data[:4], "little")
    return _decode_header(data[4 : 4 + length])


class Listing:
    """Names of a directory. `changes` counts the entries of its log, `version` moves on with each change."""

    __slots__ = ("changes", "names", "version")

    def __init__(self) -> None:
        self.names: dict[bytes, int] = {}
        self.changes = 0
        self.version = 0

    @property
    def plain_names(self) -> int:
        """How many names there are where the log says each once and takes none away; else 0."""
        return self.changes if self.changes == len(self.names) else 0


class Inode:
    """One file of any kind. A directory's `size` is that of its log; `pages` UNKNOWN: ask the store.

    `reply` belongs to whoever answers the kernel; it is dropped at each change.
    """

    __slots__ = (
        "atime_ns",
        "attributes",
        "attributes_bytes",
        "attributes_ino",
        "content",
        "ctime_ns",
        "gid",
        "ino",
        "listing",
        "mode",
        "mtime_ns",
        "nlink",
        "pages",
        "parent",
        "plain_names",
        "rdev",
        "reply",
        "size",
        "uid",
    )

    def __init__(self, ino: int, mode: int, uid: int, gid: int, now_ns: int) -> None:
        self.ino = ino
        self.mode = mode
        self.nlink = 1
        self.uid = uid
        self.gid = gid
        self.rdev = 0
        self.size = 0
        self.atime_ns = self.mtime_ns = self.ctime_ns = now_ns
        self.parent = 0
        self.pages = 0
        self.attributes_ino = 0
        self.attributes_bytes = 0
        self.plain_names = 0
        self.content: Content | None = None
        self.listing: Listing | None = None
        self.attributes: dict[bytes, bytes] | None = None
        self.reply: Any = None

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_regular(self) -> bool:
        return stat.S_ISREG(self.mode)


def encode_inode(inode: Inode) -> bytes:
    """The record of an inode."""
    return _RECORD.pack(
        inode.mode,
        inode.nlink,
        inode.uid,
        inode.gid,
        inode.rdev,
        inode.size,
        inode.atime_ns,
        inode.mtime_ns,
        inode.ctime_ns,
        inode.parent,
        inode.pages,
        inode.attributes_ino,
        inode.attributes_bytes,
        inode.plain_names if inode.listing is None else inode.listing.plain_names,
    )


def decode_inode(ino: int, data: bytes | bytearray | memoryview) -> Inode | None:
    """The inode of a record; None where there is none."""
    mode, nlink, uid, gid, rdev, size, atime, mtime, ctime, parent, pages, xino, xbytes, plain = (
        _RECORD.unpack(data)
    )
    if not mode:
        return None
    inode = Inode(ino, mode, uid, gid, ctime)
    inode.nlink = nlink
    inode.rdev = rdev
    inode.size = size
    inode.atime_ns = atime
    inode.mtime_ns = mtime
    inode.parent = parent
    inode.pages = pages
    inode.attributes_ino = xino
    inode.attributes_bytes = xbytes
    inode.plain_names = plain
    return inode


def encode_name(name: bytes, ino: int) -> bytes:
    """One entry of a directory's log."""
    return _LOG_HEAD.pack(ino, len(name)) + name


def replay(data: bytes) -> Listing:
    """The names that a log leads to."""
    listing = Listing()
    names = listing.names
    for name, ino in _entries(data):
        listing.changes += 1
        if ino:
            names[name] = ino
        else:
            names.pop(name, None)
    return listing


def read_names(data: bytes, end: int) -> tuple[list[tuple[bytes, int]], int]:
    """The whole entries at the start of a piece of a log that takes no names away, and where they end.

    `end`: how much of the log there is from the piece's start on.
    """
    found: list[tuple[bytes, int]] = []
    position, head, limit = 0, _LOG_HEAD.size, min(len(data), end)
    while position + head <= limit:
        ino, length = _LOG_HEAD.unpack_from(data, position)
        if position + head + length > limit:
            break
        position += head + length
        found.append((data[position - length : position], ino))
    return found, position


def _entries(data: bytes) -> Iterator[tuple[bytes, int]]:
    position, head = 0, _LOG_HEAD.size
    while position < len(data):
        ino, length = _LOG_HEAD.unpack_from(data, position)
        position += head + length
        yield data[position - length : position], ino
