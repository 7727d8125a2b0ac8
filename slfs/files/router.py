"""Which of the two parts of a mount a request is for: its control files or a tree of files.

The first argument of a request, an inode number or a file handle, tells. This is what pyfuse3 calls.
"""

import errno
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final

from slfs.files.nodes import FIRST, INO_MASK

Handler = Callable[..., Awaitable[Any]]

_REQUESTS: Final = (
    *("lookup", "getattr", "setattr", "readlink", "mknod", "mkdir", "unlink", "rmdir", "symlink"),
    *("open", "create", "read", "write", "flush", "release", "fsync", "poll"),
    *("opendir", "readdir", "releasedir", "fsyncdir", "access"),
)
_FOR_FILES_ONLY: Final = ("getxattr", "setxattr", "listxattr", "removexattr")


class Router:
    """The operations of a mount: `control` answers for what is below FIRST, `files` for the rest."""

    supports_dot_lookup = True
    # With it the kernel alone would know sizes and times of files, and a rollback could not tell it.
    enable_writeback_cache = False
    enable_acl = True

    def __init__(self, control: Any, files: Any) -> None:
        self._files = files
        self.init = control.init
        self.stacktrace = control.stacktrace
        self.statfs = control.statfs
        self._forget_control = control.forget
        self._link = _choose(control.link, files.link)
        self._rename = _choose(control.rename, files.rename)
        for name in _REQUESTS:
            setattr(self, name, _choose(getattr(control, name), getattr(files, name)))
        for name in _FOR_FILES_ONLY:
            setattr(self, name, getattr(files, name))

    async def forget(self, forgotten: Sequence[tuple[int, int]]) -> None:
        """The kernel drops so many of what it was told of each inode."""
        control = [one for one in forgotten if one[0] < FIRST]
        if control:
            await self._forget_control(control)
        if len(control) < len(forgotten):
            await self._files.forget([one for one in forgotten if one[0] >= FIRST])

    async def link(self, inode: int, parent: int, name: bytes, ctx: object) -> Any:
        """A link from one tree into another is refused with EXDEV."""
        if not _is_same_tree(inode, parent):
            await self._files.refuse(errno.EXDEV)
        return await self._link(inode, parent, name, ctx)

    async def rename(self, old_parent: int, old: bytes, new_parent: int, *rest: Any) -> None:
        """A rename from one tree into another is refused with EXDEV."""
        if not _is_same_tree(old_parent, new_parent):
            await self._files.refuse(errno.EXDEV)
        await self._rename(old_parent, old, new_parent, *rest)


def _is_same_tree(one: int, other: int) -> bool:
    return one & ~INO_MASK == other & ~INO_MASK


def _choose(control: Handler, files: Handler) -> Handler:
    def answer(first: int, *rest: Any) -> Awaitable[Any]:
        return (files if first >= FIRST else control)(first, *rest)

    return answer
