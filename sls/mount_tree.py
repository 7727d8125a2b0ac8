"""Paths as another mount namespace has them (mount_namespaces(7)), used from here.

A path is resolved below the root directory of that namespace (openat2(2), RESOLVE_IN_ROOT): no link leads out of it.
Knows no resource. Kernel: Linux 5.8.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache

from sls import mounts, proc
from sls.mount_copies import stay_with
from sls.proc import MountLine


class MountTree:
    """The paths of one namespace; those of our own where there is no `root`, a descriptor that the caller closes.

    `link`: tells equal namespaces; empty for ours. `lines`: what is mounted there.
    """

    def __init__(
        self, link: bytes = b"", root: int = -1, lines: tuple[MountLine, ...] = ()
    ) -> None:
        self.link = link
        self.root = root
        self.lines = lines
        self._numbers = {one.number for one in lines}

    def kind_of(self, mount: int) -> bytes:
        """The filesystem that is mounted there, by its name; empty for a mount of another namespace."""
        return next((one.kind for one in self.lines if one.number == mount), b"")

    def holds(self, mount: int) -> bool:
        """Whether a mount, by its number, is attached in this namespace."""
        return mount in self._numbers

    @contextmanager
    def reach(self, path: bytes, *, follow: bool = True) -> Iterator[bytes]:
        """A name for our own calls of what `path` is there. OSError when it is nothing."""
        if not self.link:
            yield path
            return
        flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
        fd = mounts.open_in(self.root, path, flags, mounts.IN_ROOT)
        try:
            yield b"/proc/self/fd/%d" % fd
        finally:
            os.close(fd)

    @contextmanager
    def beside(self, path: bytes) -> Iterator[bytes]:
        """A name for calls that make or remove what `path` is, and do not follow it."""
        if not self.link:
            yield path
            return
        with self.reach(os.path.dirname(path)) as folder:
            yield os.path.join(folder, os.path.basename(path))

    def stat(self, path: bytes) -> os.stat_result:
        """stat(2)."""
        with self.reach(path) as name:
            return os.stat(name)

    def open(self, path: bytes, flags: int) -> int:
        """open(2) of what is there, close-on-exec."""
        if not self.link:
            return os.open(path, flags | os.O_CLOEXEC)
        with self.reach(path, follow=not flags & os.O_NOFOLLOW) as name:
            return os.open(name, flags & ~os.O_NOFOLLOW | os.O_CLOEXEC)


OURS = MountTree()


@lru_cache(maxsize=1)
def _own_link(pid: int) -> bytes:
    """Of the namespace of this process, which it never leaves but for a stay."""
    return proc.link(pid, "ns/mnt")


def enter(tid: int, link: bytes) -> MountTree:
    """The namespace that a thread is in, where it is not ours. `link`: what tells it."""
    if link == _own_link(os.getpid()):
        return OURS
    with stay_with(tid) as processes:
        lines = processes.lines()
        root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    return MountTree(link, root, tuple(lines))
