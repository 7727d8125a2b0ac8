"""Mount namespaces (mount_namespaces(7)): what is mounted where, how, and what of it propagates.

A namespace that is the restorer's stays that; any other is made anew, once for all processes that were in it. What is
mounted for the restorer as well comes from there, like a bind mount; filesystems that are nowhere else come back as
well (`mounted_filesystem`). So paths mean the same inside as before; here they are looked up by `sls.mount_tree`.

Not kept: other filesystems mounted only in there, mapped ids: refused; rights of a user namespace to change it: told.
Kernel: Linux 5.12 (5.15 for propagation, 6.15 for layers of overlayfs that are nowhere else).
"""

import errno
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Final, NamedTuple

from sls import mounts, proc
from sls.child import told_by_child
from sls.errors import RestoreConflictError
from sls.mount_copies import (
    How,
    Processes,
    Steps,
    Wanted,
    copies,
    point_within,
    reach,
    steps_of,
)
from sls.mount_tree import MountTree
from sls.proc import MountLine
from sls.remote import Remote
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Record,
    RestoreContext,
    RestoredProcess,
)
from sls.resources.mounted_filesystem import (
    Filesystem,
    Filesystems,
    another_mount,
    known_filesystems,
    make_early,
    make_late,
    refusal,
)
from sls.resources.overlay import make_overlay
from sls.resources.own_namespace import ProcessNamespace, ProcessNamespaceRecord

_HERE: Final = -100
_ATTRIBUTES: Final = {
    b"ro": mounts.READ_ONLY, b"nosuid": mounts.NO_SUID, b"nodev": mounts.NO_DEV, b"noexec": mounts.NO_EXEC,
    b"noatime": mounts.NO_ATIME, b"nodiratime": mounts.NO_DIR_ATIME, b"nosymfollow": mounts.NO_SYMLINKS,
}  # fmt: skip


class Mount(Record, frozen=True):
    """One mount. `parent`: its position among all, -1 of the first; `point`: where on that, below its root.

    `root`: what of the filesystem is shown. `attributes`: as of mount_setattr(2). `shared`, `master`: peer groups by
    numbers that mean nothing but which are equal; 0 for none.
    """

    parent: int
    point: bytes
    root: bytes
    attributes: int
    filesystem: int
    shared: int = 0
    master: int = 0
    is_unbindable: bool = False


class Group(Record, frozen=True):
    """A peer group that a mount of the restorer's is in."""

    number: int
    steps: Steps


class MountNamespaceRecord(ProcessNamespaceRecord, frozen=True, tag="mount-namespace"):
    """Parents before children, and what lies deeper first. Only the first record of a namespace says what is in it."""

    filesystems: tuple[Filesystem, ...] = ()
    mounts: tuple[Mount, ...] = ()
    groups: tuple[Group, ...] = ()


class MountNamespace(ProcessNamespace[MountNamespaceRecord]):
    """What paths lead to."""

    name, flag = "mnt", mounts.NEW_NS
    record = MountNamespaceRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return not process.tree.link

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess
    ) -> Remote[MountNamespaceRecord]:
        yield from ()
        link = process.tree.link
        if not link:
            return MountNamespaceRecord()
        for name in ("cwd", "root"):
            if not process.tree.holds(mounts.number_of(f"/proc/{process.tid}/{name}")):
                raise process.unsupported(name, "it is of another mount namespace; chdir(2) first")
        if not ctx.is_first_sight(("mount namespace", link)):
            return MountNamespaceRecord(link=link)
        if self.own_owner(ctx, process, process.tid):
            ctx.lose(
                process.pid,
                "namespaces",
                "its mounts come back, but cannot be changed any more by the rights of its user namespace",
            )
        return _Capture(ctx, process).record()

    def _make(self, ctx: RestoreContext, record: MountNamespaceRecord) -> int:
        """All but what shows processes that are not there yet, and what is mounted on that."""
        bases = [-1 if one.is_late else make_early(ctx, one) for one in record.filesystems]
        built = _told(_Build(ctx, record, bases).begin)
        ctx.trees[record.link] = MountTree(record.link, ctx.opened(built.root))
        namespace = ctx.inheritable(ctx.opened(built.namespace))
        ctx.unfinished[record.link] = [ctx.opened(fd) if fd >= 0 else fd for fd in built.made]
        for filesystem, fd in zip(record.filesystems, built.overlays, strict=True):
            if fd >= 0:
                known_filesystems(ctx)[filesystem.device] = ctx.opened(fd)
        return namespace

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: MountNamespaceRecord
    ) -> Remote[None]:
        yield from ()
        if record.link in ctx.unfinished:
            self._finish(ctx, record, ctx.unfinished.pop(record.link))

    def _finish(
        self, ctx: RestoreContext, record: MountNamespaceRecord, made: Sequence[int]
    ) -> None:
        """The processes are there, as the first record of the namespace says who is in which pid namespace."""
        bases = [make_late(ctx, one) if one.is_late else -1 for one in record.filesystems]
        build = _Build(ctx, record, bases)
        namespace = self.made(ctx, record)
        finished = _told(lambda: build.finish(namespace, made))
        for words in finished.notes:
            ctx.note("namespaces", words)
        _known_groups(ctx).update(finished.groups)


# --- capture --------------------------------------------------------------------------------------------------------


class _Capture:
    """One namespace looked at through one process in it."""

    def __init__(self, ctx: CaptureContext, process: CapturedProcess) -> None:
        self._ctx = ctx
        self._process = process
        self._lines = _sorted(process.tree.lines)
        self._ours = proc.parse_mountinfo(proc.read(os.getpid(), "mountinfo"))
        self._our_steps = steps_of(self._ours)

    def record(self) -> MountNamespaceRecord:
        filesystems = Filesystems(self._ctx, self._process, self._lines, self._ours).captured()
        devices = list(filesystems)
        numbers = [one.number for one in self._lines]
        return MountNamespaceRecord(
            link=self._process.tree.link,
            filesystems=tuple(filesystems.values()),
            mounts=tuple(
                self._mount(line, numbers, devices.index(line.device)) for line in self._lines
            ),
            groups=tuple(self._groups()),
        )

    def _mount(self, line: MountLine, numbers: Sequence[int], filesystem: int) -> Mount:
        if b"idmapped" in line.options:
            raise refusal(
                self._process, line, "maps ids, which cannot be read back; mount it without"
            )
        is_root = line.parent not in numbers
        parent = None if is_root else self._lines[numbers.index(line.parent)]
        attributes = sum(bit for name, bit in _ATTRIBUTES.items() if name in line.options)
        if not line.options & {b"noatime", b"relatime"}:
            attributes |= mounts.STRICT_ATIME
        return Mount(
            parent=-1 if parent is None else numbers.index(parent.number),
            point=b"" if parent is None else point_within(line, parent),
            root=line.root,
            attributes=attributes,
            filesystem=filesystem,
            shared=line.shared,
            master=line.master,
            is_unbindable=line.is_unbindable,
        )

    def _groups(self) -> Iterator[Group]:
        wanted = {number for one in self._lines for number in (one.shared, one.master) if number}
        for line in self._ours:
            if line.shared in wanted:
                wanted.remove(line.shared)
                yield Group(number=line.shared, steps=self._our_steps[line.number])


def _sorted(lines: Sequence[MountLine]) -> list[MountLine]:
    """Parents before children; of those on one mount the deeper first, so that none hides another's place."""
    numbers = {one.number for one in lines}
    level = [one for one in lines if one.parent not in numbers]
    found: list[MountLine] = []
    while level:
        found += level
        above = {one.number for one in level}
        level = sorted(
            (one for one in lines if one.parent in above), key=lambda one: -len(one.point)
        )
    return found


# --- restore --------------------------------------------------------------------------------------------------------


def _known_groups(ctx: RestoreContext) -> dict[int, int]:
    """By number, a mount of each peer group that is in a namespace of the members'."""
    known: dict[int, int] = ctx.once("peer groups", dict)
    return known


def _late(record: MountNamespaceRecord) -> frozenset[int]:
    """Mounts of what can be made only when the processes are there, and those on them."""
    found: set[int] = set()
    for number, mount in enumerate(record.mounts):
        if record.filesystems[mount.filesystem].is_late or mount.parent in found:
            found.add(number)
    return frozenset(found)


class _Built(NamedTuple):
    """What a child has made: descriptors, -1 for none. `words`: why it has failed."""

    words: str = ""
    errno: int = 0
    root: int = -1
    namespace: int = -1
    made: Sequence[int] = ()
    overlays: Sequence[int] = ()  # by filesystem
    notes: Sequence[str] = ()
    groups: Mapping[int, int] = {}  # one mount of each


def _told(work: Callable[[], _Built]) -> _Built:
    built = told_by_child(work, _Built)
    if built.words:
        raise RestoreConflictError(
            f"a mount namespace cannot be made again: {built.words}; see to it and restore again",
            built.errno,
        )
    return built


_ByNumber = Sequence[int] | Mapping[int, int]
"""Descriptors of mounts by their position in the record."""


class _Build:
    """In a child, whose namespace becomes the new one. `bases`: of the filesystems that are new.

    What is bound elsewhere is looked up with the rights of the partition's owner: it may be another one since.
    """

    def __init__(
        self, ctx: RestoreContext, record: MountNamespaceRecord, bases: Sequence[int]
    ) -> None:
        self._record = record
        self._lookup = ctx.as_owner
        self._bases = bases
        self._late = _late(record)
        self._known_groups = _known_groups(ctx)
        self._notes: list[str] = []
        self._attempted: list[int] = []
        self._overlays = [-1] * len(record.filesystems)
        self._what = ""

    def begin(self) -> _Built:
        """A new namespace, of which nothing propagates yet; descriptors of its mounts."""
        namespaces = os.open("/proc/self/ns", os.O_PATH | os.O_CLOEXEC)
        processes = Processes()
        try:
            mounts.leave_alone()
            made = self._made(processes)
            self._join(made, set(range(len(made))) - self._late)
            namespace = os.open("mnt", os.O_RDONLY | os.O_CLOEXEC, dir_fd=namespaces)
            root = os.open("/", os.O_PATH | os.O_CLOEXEC)
            return _Built(root=root, namespace=namespace, made=made, overlays=self._overlays)
        except OSError as error:
            return self._failed(error)
        finally:
            processes.close()
            os.close(namespaces)

    def finish(self, namespace: int, made: Sequence[int]) -> _Built:
        """The rest of the mounts, then propagation."""
        processes = Processes()
        complete = dict(enumerate(made))
        try:
            groups = self._known_groups | dict(self._groups_outside(processes))
            mounts.enter(namespace)
            for filesystem, base in enumerate(self._bases):
                if base >= 0:
                    complete.update(self._copies_of(filesystem, base))
            self._join(complete, self._late)
            first = self._propagate(complete, groups)
            for fd in self._attempted:
                os.close(fd)
            kept = {number: fd for number, fd in first.items() if fd in made}
            return _Built(notes=self._notes, groups=kept)
        except OSError as error:
            return self._failed(error)
        finally:
            processes.close()

    def _failed(self, error: OSError) -> _Built:
        """Descriptors are the tracer's as well: those of the attempt go."""
        for fd in self._attempted:
            os.close(fd)
        what = os.fsdecode(error.filename) if error.filename is not None else self._what
        words = f"{what}: {os.strerror(error.errno or errno.EIO)}"
        return _Built(words=words, errno=error.errno or errno.EIO)

    def _groups_outside(self, processes: Processes) -> Iterator[tuple[int, int]]:
        lines = processes.lines()
        for group in self._record.groups:
            if (fd := reach(lines, group.steps)) is not None:
                yield group.number, fd

    def _made(self, processes: Processes) -> list[int]:
        """A descriptor of each mount, attached nowhere; -1 where its filesystem is not there yet."""
        found: dict[int, int] = {}
        wanted: dict[int | tuple[int, int], Wanted] = dict(self._layers_outside())
        for number, mount in enumerate(self._record.mounts):
            place = self._record.filesystems[mount.filesystem].place
            if place is not None:
                below = mount.root[len(place.root.rstrip(b"/")) :].lstrip(b"/")
                wanted[number] = Wanted(place.steps, below)
        self._what = "what is mounted for us"
        made = copies(processes, list(wanted.values()), How(lookup=self._lookup))
        outside = {key: fd for key, fd in zip(wanted, made, strict=True) if isinstance(key, tuple)}
        with ExitStack() as opened:
            for fd in outside.values():
                opened.callback(os.close, fd)
            found.update(
                (key, fd) for key, fd in zip(wanted, made, strict=True) if isinstance(key, int)
            )
            self._attempted += found.values()
            for filesystem, base in enumerate(self._bases):
                if base >= 0:
                    found.update(self._copies_of(filesystem, base))
            self._add_overlays(found, outside)
        return [found.get(number, -1) for number in range(len(self._record.mounts))]

    def _layers_outside(self) -> Iterator[tuple[tuple[int, int], Wanted]]:
        """Directories of layers that are mounted for the restorer, by filesystem and position."""
        for filesystem, one in enumerate(self._record.filesystems):
            directories = one.overlay.directories if one.overlay is not None else ()
            for number, directory in enumerate(directories):
                if directory.mount < 0:
                    yield (filesystem, number), Wanted(directory.steps, directory.path)

    def _add_overlays(self, found: dict[int, int], outside: Mapping[tuple[int, int], int]) -> None:
        """Each once all mounts that its layers are on are there: one may be a layer of another."""
        waiting = {
            number: one
            for number, one in enumerate(self._record.filesystems)
            if one.overlay is not None and self._bases[number] < 0
        }
        while waiting:
            ready = [number for number, one in waiting.items() if one.layer_mounts <= found.keys()]
            for number in ready:
                base = self._overlay(number, waiting.pop(number), found, outside)
                try:
                    self._overlays[number] = another_mount(base)
                    self._attempted.append(self._overlays[number])
                    found.update(self._copies_of(number, base))
                finally:
                    os.close(base)
            if not ready:
                self._what = "the layers of an overlay"
                raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

    def _overlay(
        self,
        number: int,
        filesystem: Filesystem,
        found: Mapping[int, int],
        outside: Mapping[tuple[int, int], int],
    ) -> int:
        overlay = filesystem.overlay
        assert overlay is not None
        directories: list[int] = []
        with ExitStack() as opened:
            for position, one in enumerate(overlay.directories):
                fd = outside.get((number, position), -1)
                if fd < 0:
                    self._what = f"a layer in {one.path.decode(errors='replace') or '/'}"
                    with self._lookup():
                        place = mounts.open_within(found[one.mount], one.path)
                    opened.callback(os.close, place)
                    fd = mounts.copy_of(place)
                    opened.callback(os.close, fd)
                directories.append(fd)
            self._what = "an overlay"
            return make_overlay(
                overlay,
                filesystem.source,
                filesystem.settings,
                directories,
                read_only=filesystem.is_read_only,
            )

    def _copies_of(self, filesystem: int, base: int) -> Iterator[tuple[int, int]]:
        """Before Linux 6.15 only what is attached somewhere is copied."""
        mounts.attach(base, _HERE, b"/")
        for number, mount in enumerate(self._record.mounts):
            if mount.filesystem == filesystem:
                self._what = mount.point.decode(errors="replace")
                made = mounts.copy_of(base, mount.root.lstrip(b"/"))
                self._attempted.append(made)
                yield number, made
        mounts.detach(b"/")

    def _join(self, made: _ByNumber, numbers: Collection[int]) -> None:
        """Put these in their places, in the order of the record."""
        for number in sorted(numbers):
            fd, mount = made[number], self._record.mounts[number]
            self._what = f"the mount on {mount.point.decode(errors='replace') or '/'}"
            mounts.set_propagation(fd, mounts.PRIVATE)
            mounts.set_attributes(fd, mount.attributes)
            if mount.parent < 0:
                mounts.attach(fd, _HERE, b"/")
                mounts.make_root(fd)
            elif mount.point:
                place = mounts.open_within(made[mount.parent], mount.point)
                try:
                    mounts.attach(fd, place)
                finally:
                    os.close(place)
            else:
                mounts.attach(fd, made[mount.parent])

    # --- propagation ---

    def _propagate(self, made: _ByNumber, groups: dict[int, int]) -> dict[int, int]:
        """Peers and masters, once all is in its place: what propagates would be mounted elsewhere too. One of each.

        Who shows most of a filesystem is the first of a group, for the others have to show a part of it.
        """
        first = dict(groups)
        numbered = ((made[number], mount) for number, mount in enumerate(self._record.mounts))
        order = sorted(numbered, key=lambda one: len(one[1].root))
        for fd, mount in order:
            if mount.shared and mount.shared not in first:
                self._follow(fd, mount, first)
                mounts.set_propagation(fd, mounts.SHARED)
                first[mount.shared] = fd
            elif mount.shared:
                self._take_part(fd, mount, first[mount.shared])
        for fd, mount in order:
            if mount.master and not mount.shared:
                self._follow(fd, mount, first)
            if mount.is_unbindable:
                mounts.set_propagation(fd, mounts.UNBINDABLE)
        return first

    def _follow(self, fd: int, mount: Mount, first: dict[int, int]) -> None:
        if not mount.master:
            return
        if mount.master not in first:
            self._note(mount, "what it received mounts from is not there")
        elif self._take_part(fd, mount, first[mount.master]):
            mounts.set_propagation(fd, mounts.SLAVE)

    def _take_part(self, fd: int, mount: Mount, other: int) -> bool:
        try:
            mounts.join_group(fd, other)
        except OSError:
            self._note(mount, "it cannot join its peers")
            return False
        return True

    def _note(self, mount: Mount, why: str) -> None:
        point = mount.point.decode(errors="replace") or "/"
        self._notes.append(f"the mount on {point} propagates nothing any more: {why}")
