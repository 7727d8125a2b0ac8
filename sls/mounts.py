"""The calls of mounts as descriptors (open_tree(2), move_mount(2), fsopen(2), mount_setattr(2), pivot_root(2)).

What is not attached anywhere is a descriptor, and goes with it. Knows no resource; concerns the calling process.
Kernel: Linux 5.12.
"""

import os
import struct
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Final

from sls import syscalls

NEW_NS: Final = 0x00020000
_CLONE_FS: Final = 0x200
READ_ONLY, NO_SUID, NO_DEV, NO_EXEC, NO_ATIME, STRICT_ATIME = 1, 2, 4, 8, 0x10, 0x20
NO_DIR_ATIME, NO_SYMLINKS = 0x80, 0x200000
_ATIMES, _ALL = 0x70, 0x2000FF
UNBINDABLE, PRIVATE, SLAVE, SHARED = 1 << 17, 1 << 18, 1 << 19, 1 << 20
_RECURSIVE: Final = 0x4000
_AT_RECURSIVE: Final = 0x8000

_CLONE, _CLOEXEC = 1, os.O_CLOEXEC
_EMPTY_PATH: Final = 0x1000
_HERE: Final = -100
_FROM_EMPTY, _TO_EMPTY, _SET_GROUP = 0x4, 0x40, 0x100
_SET_FLAG, _SET_STRING, _CREATE, _RECONFIGURE = 0, 1, 6, 7
_PICK_CLOEXEC, _PICK_EMPTY_PATH = 1, 8
_DETACH, _NO_FOLLOW = 2, 8
IN_ROOT: Final = 0x10
_WITHIN_ONE_MOUNT: Final = 0x01 | 0x04 | 0x08  # NO_XDEV, NO_SYMLINKS, BENEATH
_MOUNT_NUMBER: Final = 0x1000  # STATX_MNT_ID, Linux 5.8
_STATX_BYTES, _NUMBER_AT = 256, 144


def open_in(folder: int, path: bytes, flags: int, resolve: int) -> int:
    """openat2(2)."""
    how = struct.pack("=QQQ", flags | os.O_CLOEXEC, 0, resolve)
    return syscalls.syscall_on("openat2", folder, path + b"\0", how, len(how))


def open_within(folder: int, path: bytes) -> int:
    """What `path` is in the mount that `folder` is the root of, whatever is mounted above it."""
    return open_in(folder, path or b".", os.O_PATH, _WITHIN_ONE_MOUNT)


def number_of(path: str | bytes) -> int:
    """The mount, as mountinfo numbers it, that a path leads to; that of a link in /proc is its target's."""
    return _number(_HERE, os.fsencode(path) + b"\0", 0)


def _number(folder: int, path: bytes, flags: int) -> int:
    buffer = bytearray(_STATX_BYTES)
    syscalls.syscall_on("statx", folder, path, flags, _MOUNT_NUMBER, buffer)
    return int.from_bytes(buffer[_NUMBER_AT : _NUMBER_AT + 8], "little")


def number_behind(fd: int) -> int:
    """The same of a descriptor."""
    return _number(fd, b"\0", _EMPTY_PATH)


def copy_of(folder: int, path: bytes = b"") -> int:
    """A mount of its own, attached nowhere, of what `path` is below `folder`; without what is mounted on it."""
    flags = _CLONE | _CLOEXEC | (0 if path else _EMPTY_PATH)
    return syscalls.syscall_on("open_tree", folder, path + b"\0", flags)


def whole_copy_of(mount: int) -> int:
    """The same with what is mounted on it, where that may not be taken away (MNT_LOCKED)."""
    flags = _CLONE | _CLOEXEC | _EMPTY_PATH | _AT_RECURSIVE
    return syscalls.syscall_on("open_tree", mount, b"\0", flags)


def fresh(kind: bytes, source: bytes, settings: Iterable[bytes]) -> int:
    """A new filesystem, mounted nowhere. OSError when the kernel does not take one of the settings."""
    context = syscalls.syscall_on("fsopen", kind + b"\0", 1)
    try:
        for setting in (b"source=" + source, *settings):
            name, is_string, value = setting.partition(b"=")
            command = _SET_STRING if is_string else _SET_FLAG
            text = value + b"\0" if is_string else 0
            syscalls.syscall_on("fsconfig", context, command, name + b"\0", text, 0)
        syscalls.syscall("fsconfig", context, _CREATE, 0, 0, 0)
        return syscalls.syscall("fsmount", context, 1, 0)
    finally:
        os.close(context)


def fresh_by_words(
    kind: bytes, source: bytes, settings: Iterable[bytes], place: bytes, *, read_only: bool = False
) -> int:
    """The same by mount(2), on a place that is free again then: fsconfig(2) takes no setting of more than 255 bytes."""
    words = b",".join(settings)
    syscalls.mount(source, place, kind, READ_ONLY if read_only else 0, words)
    try:
        return copy_of(_HERE, place)
    finally:
        detach(place)


def attach(mount: int, folder: int, path: bytes = b"") -> None:
    """Put a mount that is attached nowhere on a place; `folder` is the place itself where there is no path."""
    flags = _FROM_EMPTY | (0 if path else _TO_EMPTY)
    syscalls.syscall_on("move_mount", mount, b"\0", folder, path + b"\0", flags)


def detach(path: bytes) -> None:
    """Take away what is mounted on top of a path, with all that is mounted on it."""
    syscalls.syscall_on("umount2", path + b"\0", _DETACH | _NO_FOLLOW)


def make_filesystem_read_only(mount: int) -> None:
    """The filesystem itself, wherever it is mounted."""
    context = syscalls.syscall_on("fspick", mount, b"\0", _PICK_CLOEXEC | _PICK_EMPTY_PATH)
    try:
        syscalls.syscall_on("fsconfig", context, _SET_FLAG, b"ro\0", 0, 0)
        syscalls.syscall("fsconfig", context, _RECONFIGURE, 0, 0, 0)
    finally:
        os.close(context)


def make_read_only(mount: int) -> None:
    """This mount, and no other of the filesystem; whatever else is set stays, for it may not be ours to clear."""
    _set(mount, READ_ONLY, 0, 0)


def set_attributes(mount: int, attributes: int) -> None:
    """These and no other."""
    _set(mount, attributes, _ALL & ~_ATIMES & ~attributes | _ATIMES, 0)


def set_propagation(mount: int, propagation: int) -> None:
    """PRIVATE, SHARED, SLAVE or UNBINDABLE."""
    _set(mount, 0, 0, propagation)


def _set(mount: int, attributes: int, cleared: int, propagation: int) -> None:
    how = struct.pack("=QQQQ", attributes, cleared, propagation, 0)
    syscalls.syscall_on("mount_setattr", mount, b"\0", _EMPTY_PATH, how, len(how))


def join_group(mount: int, other: int) -> None:
    """A private mount gets the peers and the master of another one (Linux 5.15)."""
    flags = _FROM_EMPTY | _TO_EMPTY | _SET_GROUP
    syscalls.syscall_on("move_mount", other, b"\0", mount, b"\0", flags)


def enter(namespace: int) -> None:
    """This process gets the mounts of that namespace, and its root as root and working directory."""
    syscalls.syscall("setns", namespace, NEW_NS)


@contextmanager
def stay(namespace: int) -> Iterator[None]:
    """Within, paths of this thread are those of that namespace, from its root on; /proc is what is mounted there."""
    syscalls.syscall("unshare", _CLONE_FS)  # from other threads
    paths = ("/proc/thread-self/ns/mnt", "/", ".")
    with ExitStack() as kept:
        home, root, folder = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for path in paths)
        for fd in (home, root, folder):
            kept.callback(os.close, fd)
        enter(namespace)
        try:
            yield
        finally:
            enter(home)
            os.fchdir(root)
            os.chroot(".")
            os.fchdir(folder)


def leave_alone() -> None:
    """This process gets a namespace of its own, of which nothing propagates anywhere."""
    syscalls.syscall("unshare", NEW_NS)
    syscalls.mount(b"none", b"/", b"", _RECURSIVE | PRIVATE)


def make_root(mount: int) -> None:
    """An attached mount becomes the root of this process's namespace; all that was there before goes."""
    os.fchdir(mount)
    syscalls.syscall_on("pivot_root", b".\0", b".\0")
    detach(b".")
    os.chdir("/")
