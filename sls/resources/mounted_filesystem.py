"""What is mounted in a mount namespace: what the restorer has mounted too, and what is made anew.

Not a resource of its own: part of mount namespaces. A tmpfs that is nowhere else comes back with all that is in it
(`tmpfs`), proc, mqueue and sysfs as what they show (`shown_namespace`), overlayfs over the same layers (`overlay`).
"""

import errno
import os
from collections.abc import Sequence
from functools import partial
from typing import Final, NamedTuple

from sls import mounts
from sls.child import told_by_child, told_from_inside
from sls.errors import RestoreConflictError, UnsupportedResourceError
from sls.mount_copies import (
    How,
    Processes,
    Steps,
    Wanted,
    copies,
    stay_with,
    steps_of,
    visible_copies,
)
from sls.mount_tree import OURS
from sls.proc import MountLine
from sls.resources.base import CaptureContext, CapturedProcess, Record, RestoreContext
from sls.resources.namespaces import is_first
from sls.resources.overlay import KIND as OVERLAY
from sls.resources.overlay import Directory, Overlay, Where, find_layers, has_handles
from sls.resources.shown_namespace import make_shown, namespace_shown, shows_one
from sls.resources.tmpfs import Part, TmpfsTree, capture_tmpfs, fill_tmpfs

_DELETED: Final = b"//deleted"
_LOOKED_INTO: Final = (b"tmpfs", b"proc", OVERLAY)
_OTHER_SETTINGS: Final = (b"rw", b"ro", b"seclabel")
_REMADE: Final = (b"tmpfs", b"proc", b"devpts", OVERLAY)


class Place(Record, frozen=True):
    """A mount of the restorer's: the mount points to it from the root, each below the one before.

    `root`: what of the filesystem it shows.
    """

    steps: Steps
    root: bytes


class Filesystem(Record, frozen=True):
    """What is mounted. `place`: where the restorer has it too; else it is made with `settings`, and filled (`tree`).

    `first_process`: of proc(5), pid 1 of the pid namespace that it shows, by our number; 0: it shows the restorer's.
    `namespace`: the link of the namespace that it shows, of mqueue and sysfs; empty for the restorer's. `device`: tells
    those that several namespaces of the members have; 0: none of them has it.
    """

    kind: bytes
    source: bytes
    settings: tuple[bytes, ...] = ()
    place: Place | None = None
    tree: TmpfsTree | None = None
    is_read_only: bool = False
    first_process: int = 0
    namespace: bytes = b""
    overlay: Overlay | None = None
    device: int = 0

    @property
    def is_late(self) -> bool:
        """Whether it shows what is not there yet when namespaces are made."""
        return bool(self.first_process or self.namespace)

    @property
    def layer_mounts(self) -> set[int]:
        """Positions of the mounts that layers of an overlay are on."""
        directories = self.overlay.directories if self.overlay is not None else ()
        return {one.mount for one in directories if one.mount >= 0}


# --- capture --------------------------------------------------------------------------------------------------------


def refusal(process: CapturedProcess, line: MountLine, why: str) -> UnsupportedResourceError:
    """The error that refuses a mount by its place."""
    point = line.point.decode(errors="replace")
    kind = line.kind.decode(errors="replace")
    return process.unsupported(
        "namespaces", f"a mount namespace of its own, in which {kind} on {point} {why}"
    )


class Filesystems:
    """Those of one namespace, looked at through one process in it. `ours`: what is mounted where we are."""

    def __init__(
        self,
        ctx: CaptureContext,
        process: CapturedProcess,
        lines: Sequence[MountLine],
        ours: Sequence[MountLine],
    ) -> None:
        self._ctx = ctx
        self._process = process
        self._lines = lines
        self._ours = ours
        self._our_steps = steps_of(ours)

    def captured(self) -> dict[int, Filesystem]:
        """By the number of the device, in the order of the lines."""
        places = {one.device: self._place(one) for one in self._lines}
        own = [device for device, place in places.items() if place is None]
        inside = self._looked_into(own)
        return {device: self._filesystem(device, place, inside) for device, place in places.items()}

    def _place(self, line: MountLine) -> Place | None:
        """A mount of ours that shows all that those of the namespace show of a filesystem."""
        roots = {one.root for one in self._lines if one.device == line.device}
        found = [
            one
            for one in self._ours
            if one.device == line.device and all(_is_below(root, one.root) for root in roots)
        ]
        if not found:
            return None
        best = next((one for one in found if one.point == line.point), found[0])
        return Place(steps=self._our_steps[best.number], root=best.root)

    def _filesystem(self, device: int, place: Place | None, inside: "_Inside") -> Filesystem:
        line = next(one for one in self._lines if one.device == device)
        if any(one.root.endswith(_DELETED) for one in self._lines if one.device == device):
            raise refusal(
                self._process, line, "shows a directory that is removed; unmount it there"
            )
        if place is None and line.kind not in _REMADE and not shows_one(line.kind):
            raise refusal(
                self._process,
                line,
                "is mounted nowhere outside and cannot be made again; mount it outside as well, or unmount it there",
            )
        if place is not None:
            return Filesystem(kind=line.kind, source=line.source, place=place)
        settings = [one for one in line.setting_words if one not in _OTHER_SETTINGS]
        return Filesystem(
            kind=line.kind,
            source=line.source,
            settings=tuple(settings),
            tree=inside.trees.get(device),
            is_read_only=b"ro" in line.setting_words,
            first_process=inside.first_processes.get(device, 0),
            namespace=self._namespace(line),
            overlay=self._overlay(line, settings, inside) if line.kind == OVERLAY else None,
            device=device,
        )

    def _overlay(self, line: MountLine, settings: Sequence[bytes], inside: "_Inside") -> Overlay:
        places = [
            Where(self._process.tree, self._lines, self._directory_inside),
            Where(OURS, self._ours, self._directory_of_ours),
        ]
        refuse = partial(refusal, self._process, line)
        found = find_layers(settings, inside.tops.get(line.device, -1), places, refuse)
        on = {self._lines[one.mount].device for one in found.directories if one.mount >= 0}
        if has_handles(settings) and not on.isdisjoint(inside.trees):
            raise refuse(
                "knows the files of its layers by numbers (index, nfs_export), which change when those are made again; "
                "mount it without"
            )
        return found

    def _directory_of_ours(self, line: MountLine, path: bytes) -> Directory:
        return Directory(path=path, steps=self._our_steps[line.number])

    def _directory_inside(self, line: MountLine, path: bytes) -> Directory:
        """By the way to it outside, if there is one: it needs none of the namespace's mounts then."""
        if (place := self._place(line)) is not None:
            below = os.path.join(line.root, path)[len(place.root.rstrip(b"/")) :].strip(b"/")
            return Directory(path=below, steps=place.steps)
        return Directory(path=path, mount=list(self._lines).index(line))

    def _namespace(self, line: MountLine) -> bytes:
        if not shows_one(line.kind):
            return b""
        found = namespace_shown(self._ctx, line.kind, line.device)
        if found is None:
            raise refusal(
                self._process, line, "shows a namespace that no member is in; unmount it there"
            )
        return found

    def _looked_into(self, own: Sequence[int]) -> "_Inside":
        """What is in those that are ours nowhere."""
        tops = {device: _tops(self._lines, device) for device in own}
        mine = [one for device in own for one in tops[device] if one.kind in _LOOKED_INTO]
        if not mine:
            return _Inside({}, {}, {})
        steps = steps_of(self._lines)
        wanted = [Wanted(steps[one.number]) for one in mine]
        descriptors = _seen_inside(self._process.tid, wanted)
        parts: dict[int, list[Part]] = {}
        processes: dict[int, int] = {}
        overlays: dict[int, int] = {}
        for line, fd in zip(mine, descriptors, strict=True):
            if fd < 0:
                continue
            self._ctx.at_end(partial(os.close, fd))
            if line.kind == b"proc":
                processes[line.device] = self._first_process(line, fd)
            elif line.kind == OVERLAY:
                if line.root == b"/":
                    overlays[line.device] = fd
            else:
                parts.setdefault(line.device, []).append(Part(fd, line.root.lstrip(b"/")))
        trees = {device: self._tree(device, one) for device, one in parts.items()}
        return _Inside(trees, processes, overlays)

    def _tree(self, device: int, parts: Sequence[Part]) -> TmpfsTree:
        """One for all namespaces that have it: what the first of them shows."""
        capture = partial(capture_tmpfs, self._ctx, device, parts)
        seen, tree = self._ctx.once(("tmpfs", device), lambda: (parts, capture()))
        for part in parts:
            if not any(_is_below(b"/" + part.path, b"/" + one.path) for one in seen):
                line = next(one for one in self._lines if one.device == device)
                raise refusal(
                    self._process,
                    line,
                    "shows what another mount namespace does not show of it; unmount it in one of them",
                )
        return tree

    def _first_process(self, line: MountLine, fd: int) -> int:
        """Who is pid 1 in a proc; 0 if it is that of ours. The machine's own may not be looked at."""
        if _link_in(fd, "self") == str(os.getpid()):
            return 0
        found = _link_in(fd, "1/ns/pid").encode()
        for one in self._ctx.processes.values():
            if one.settled_link("ns/pid") == found and is_first(one):
                return one.pid
        raise refusal(
            self._process, line, "shows processes that are not in the partition; run it without"
        )


class _Inside(NamedTuple):
    """By device: all of a tmpfs; pid 1 of what a proc shows; a descriptor of the topmost directory of an overlay."""

    trees: dict[int, TmpfsTree]
    first_processes: dict[int, int]
    tops: dict[int, int]


def _link_in(folder: int, name: str) -> str:
    """A link's target; empty where it is not there, or may not be read."""
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return ""


def _is_below(path: bytes, folder: bytes) -> bool:
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def _tops(lines: Sequence[MountLine], device: int) -> list[MountLine]:
    """Mounts that together show all that is seen of a filesystem, none of them twice."""
    found: list[MountLine] = []
    for line in sorted(lines, key=lambda one: len(one.root)):
        if line.device == device and not any(_is_below(line.root, one.root) for one in found):
            found.append(line)
    return found


def _seen_inside(tid: int, wanted: Sequence[Wanted]) -> list[int]:
    """Copies that are looked at without a trace; -1 for what nobody can see there, not even by unmounting (MNT_LOCKED).

    A child costs milliseconds, in which all stand still: it is for what lies under other mounts.
    """
    with stay_with(tid) as processes:
        made = visible_copies(processes, wanted, _READING)
    hidden = [number for number, fd in enumerate(made) if fd < 0]
    if hidden:
        under = [wanted[number] for number in hidden]
        found = told_by_child(partial(_hidden_copies, tid, under), list[int])
        for number, fd in zip(hidden, found, strict=True):
            made[number] = fd
    for fd in made:
        if fd >= 0:
            mounts.make_read_only(fd)
    return made


def _hidden_copies(tid: int, wanted: Sequence[Wanted]) -> list[int]:
    """In a child."""
    processes = Processes()
    namespace = os.open(f"/proc/{tid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mounts.enter(namespace)
        return copies(processes, wanted, _READING)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return [-1] * len(wanted)
    finally:
        os.close(namespace)
        processes.close()


def _copy(mount: int) -> int:
    try:
        return mounts.copy_of(mount)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return mounts.whole_copy_of(
            mount
        )  # what lies under the mounts on it nobody there can see either


_READING: Final = How(copy=_copy)


# --- restore --------------------------------------------------------------------------------------------------------


def make_early(ctx: RestoreContext, filesystem: Filesystem) -> int:
    """A descriptor of a new filesystem, filled; -1 for one that is mounted already, or wants others first."""
    if filesystem.place is not None:
        return -1
    known = known_filesystems(ctx)
    mount = known.get(filesystem.device, -1) if filesystem.device else -1
    if mount < 0:
        if filesystem.overlay is not None:
            return -1
        mount = known[filesystem.device] = _fresh(ctx, filesystem)
    return ctx.opened(another_mount(mount))


def known_filesystems(ctx: RestoreContext) -> dict[int, int]:
    """By device, descriptors of those that several mount namespaces may have, mounted nowhere."""
    known: dict[int, int] = ctx.once("filesystems", dict)
    return known


def another_mount(mount: int) -> int:
    """One more mount of it. Before Linux 6.15 there is only the one."""
    try:
        return mounts.copy_of(mount)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.dup(mount)


def _fresh(ctx: RestoreContext, filesystem: Filesystem) -> int:
    name = filesystem.kind.decode(errors="replace")
    try:
        base = ctx.opened(mounts.fresh(filesystem.kind, filesystem.source, filesystem.settings))
        if filesystem.tree is not None:
            fill_tmpfs(ctx, base, filesystem.tree)
        if filesystem.is_read_only:
            ctx.at_last(lambda: mounts.make_filesystem_read_only(base))
    except OSError as error:
        raise RestoreConflictError(
            f"{name} of a mount namespace cannot be made again: {error.strerror}; see to it and restore again",
            error.errno or errno.EIO,
        ) from error
    return base


def make_late(ctx: RestoreContext, filesystem: Filesystem) -> int:
    """A descriptor of one that shows a namespace of the members' own."""
    what = filesystem.kind, filesystem.source, filesystem.settings
    if filesystem.first_process:
        make = partial(mounts.fresh, *what)
        return ctx.opened(told_from_inside(filesystem.first_process, make, int))
    base = ctx.opened(make_shown(ctx, *what, filesystem.namespace))
    if filesystem.is_read_only:
        ctx.at_last(lambda: mounts.make_filesystem_read_only(base))
    return base
