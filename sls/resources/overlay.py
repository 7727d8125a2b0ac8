"""overlayfs, a filesystem made of the directories of others (Documentation/filesystems/overlayfs.rst).

Not a resource of its own: mount namespaces have such (`mounted_filesystem`). mountinfo tells by which paths it was
given its layers, and nothing tells where these led to: they are looked up where it is mounted, then where the restorer
is, and must show what it shows. It is made again with the same words below a root of its own, in which they lead to
the layers.
"""

import errno
import os
import re
import stat
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Final, NamedTuple

from sls import mounts
from sls.errors import UnsupportedResourceError
from sls.mount_copies import Steps
from sls.mount_tree import MountTree
from sls.proc import MountLine
from sls.resources.base import Record

KIND: Final = b"overlay"
_HERE: Final = -100
_PIECE: Final = re.compile(
    rb"(:{0,2})((?:\\.|[^:\\])+)", re.DOTALL
)  # of a list: what parts it, a path
_ESCAPED: Final = re.compile(rb"\\(.)", re.DOTALL)
_BY_HANDLE: Final = frozenset([b"index=on", b"nfs_export=on"])
_VOLATILE: Final = b"volatile"
_MERGED: Final = b"/merged by us"


class Directory(Record, frozen=True):
    """A directory in which layers are. `mount`: its mount's position in the namespace; -1: `steps` lead to it in ours.

    `path`: below the root of that mount.
    """

    path: bytes
    mount: int = -1
    steps: Steps = ()


class Layer(Record, frozen=True):
    """The path that it was given by, and what it is: `directory`, by its position, and what `below` it."""

    name: bytes
    directory: int
    below: bytes = b""


class Overlay(Record, frozen=True):
    """All layers, in no order: that is in the settings."""

    directories: tuple[Directory, ...]
    layers: tuple[Layer, ...]


# --- capture --------------------------------------------------------------------------------------------------------


class Where(NamedTuple):
    """Paths of a namespace and its mounts. `directory` describes one by its mount and its path in that."""

    tree: MountTree
    lines: Sequence[MountLine]
    directory: Callable[[MountLine, bytes], Directory]


class _Found(NamedTuple):
    """A directory in the mount of `line`, below whose root it is `path`."""

    name: bytes
    line: MountLine
    path: bytes


class _Names(NamedTuple):
    """Paths as it was given them. `data`: of layers that only hold what others refer to."""

    writable: list[bytes]
    lower: list[bytes]
    data: list[bytes]

    @property
    def all(self) -> list[bytes]:
        return [*self.writable, *self.lower, *self.data]


def find_layers(
    settings: Sequence[bytes],
    top: int,
    places: Sequence[Where],
    refusal: Callable[[str], UnsupportedResourceError],
) -> Overlay:
    """The layers, or `refusal`. `top`: a descriptor of its topmost directory, -1 where that cannot be had."""
    names = _names(settings)
    words = b", ".join(names.all).decode(errors="replace")
    if not all(name.startswith(b"/") for name in names.all):
        raise refusal(f"was given layers by relative paths ({words}); give it whole ones")
    if _VOLATILE in settings:
        raise refusal("is volatile, and can be mounted once only; mount it without")
    for place in places:
        found = [_look_up(place, name) for name in names.all]
        known = [one for one in found if one is not None]
        if len(known) == len(found) and (top < 0 or _is_same(top, place.tree, names)):
            return _described(place, known, len(names.writable))
    raise refusal(f"has layers that are not to be seen any more ({words})")


def has_handles(settings: Sequence[bytes]) -> bool:
    """Whether it knows files of its layers by their numbers, which must stay."""
    return not _BY_HANDLE.isdisjoint(settings)


def _names(settings: Sequence[bytes]) -> _Names:
    """Layers by one list, or each by a setting of its own."""
    names = _Names([], [], [])
    for setting in settings:
        name, _, value = setting.partition(b"=")
        if name in (b"upperdir", b"workdir"):
            names.writable.append(_unescaped(value))
        elif name == b"lowerdir":
            for separator, piece in _PIECE.findall(value):
                (names.data if separator == b"::" else names.lower).append(_unescaped(piece))
        elif name == b"lowerdir+":
            names.lower.append(value)
        elif name == b"datadir+":
            names.data.append(value)
    return names


def _unescaped(value: bytes) -> bytes:
    return _ESCAPED.sub(lambda found: found[1], value)


def _look_up(place: Where, name: bytes) -> _Found | None:
    try:
        with place.tree.reach(name) as path:
            fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        number = mounts.number_behind(fd)
        line = next((one for one in place.lines if one.number == number), None)
        path = os.readlink(b"/proc/self/fd/%d" % fd)
    finally:
        os.close(fd)
    if line is None:
        return None
    return _Found(name, line, path[len(line.point.rstrip(b"/")) :].lstrip(b"/"))


def _described(place: Where, found: Sequence[_Found], writable: int) -> Overlay:
    """The first, that are `writable`, have to be on one mount: what they are in together is one directory here."""
    directories: list[Directory] = []
    layers: list[Layer] = []
    if writable:
        common = os.path.commonpath([one.path for one in found[:writable]])
        directories.append(place.directory(found[0].line, common))
        for one in found[:writable]:
            below = one.path[len(common) :].lstrip(b"/")
            layers.append(Layer(name=one.name, directory=0, below=below))
    for one in found[writable:]:
        layers.append(Layer(name=one.name, directory=len(directories)))
        directories.append(place.directory(one.line, one.path))
    return Overlay(directories=tuple(directories), layers=tuple(layers))


# --- whether they are the layers ---


def _is_same(top: int, tree: MountTree, names: _Names) -> bool:
    """Whether these, one over the other, show in their topmost directories what the filesystem shows."""
    shown: dict[str, tuple[int, ...] | None] = {}
    for name in (*names.writable[:1], *names.lower):
        with tree.reach(name) as path, os.scandir(path) as entries:
            for entry in entries:
                shown.setdefault(os.fsdecode(entry.name), _facts(entry.stat(follow_symlinks=False)))
    with os.scandir(
        f"/proc/self/fd/{top}"
    ) as entries:  # the descriptor itself has no entries (O_PATH)
        seen = {one.name: _facts(one.stat(follow_symlinks=False)) for one in entries}
    return seen == {name: facts for name, facts in shown.items() if facts is not None}


def _facts(status: os.stat_result) -> tuple[int, ...] | None:
    """What both tell of a file; None of one that says that there is none."""
    if stat.S_ISCHR(status.st_mode) and status.st_rdev == 0:
        return None
    owner = status.st_mode, status.st_uid, status.st_gid
    if stat.S_ISDIR(status.st_mode):
        return owner
    return *owner, status.st_size, status.st_mtime_ns, status.st_rdev


# --- restore --------------------------------------------------------------------------------------------------------


def make_overlay(
    overlay: Overlay,
    source: bytes,
    settings: Sequence[bytes],
    directories: Sequence[int],
    *,
    read_only: bool,
) -> int:
    """A descriptor of it, mounted nowhere. `directories`: mounts of them, attached nowhere. In a child of ours."""
    home = os.open("/", os.O_PATH | os.O_CLOEXEC)
    scratch = mounts.fresh(b"tmpfs", b"layers", ())
    try:
        mounts.attach(scratch, _HERE, b"/")
        os.fchdir(scratch)
        os.chroot(".")
        for number, mount in enumerate(directories):
            os.makedirs(_place(number))
            mounts.attach(mount, _HERE, _place(number))
        for layer in overlay.layers:
            _show(layer, [one.name for one in overlay.layers])
        os.mkdir(_MERGED)
        return mounts.fresh_by_words(KIND, source, settings, _MERGED, read_only=read_only)
    finally:
        os.fchdir(home)
        os.chroot(".")
        mounts.detach(b"/")
        os.close(scratch)
        os.close(home)


def _place(number: int) -> bytes:
    return b"/directories of layers/%d" % number


def _show(layer: Layer, names: Sequence[bytes]) -> None:
    """Let its name lead to it. One that is below another layer's does so already, and must not be made in there."""
    target = os.path.join(_place(layer.directory), layer.below)
    if any(layer.name.startswith(one + b"/") for one in names):
        if not os.path.samefile(layer.name, target):
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), layer.name)
        return
    os.makedirs(os.path.dirname(layer.name), exist_ok=True)
    with suppress(FileExistsError):  # one directory may be two layers
        os.symlink(target, layer.name)
