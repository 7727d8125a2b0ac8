"""Copies of mounts, attached nowhere, by where they are in a namespace; also of those that others hide.

To get at what is hidden, `copies` leaves its namespace for another one, which it takes apart: for a child of the
tracer alone.
Knows no resource.
"""

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Final, NamedTuple

from sls import mounts, proc
from sls.proc import MountLine

Steps = tuple[bytes, ...]
"""Mount points from the root of the namespace, each below the one before."""


class How(NamedTuple):
    """`copy` makes one of the mount that a descriptor is of; within `lookup` names lead where somebody may go."""

    copy: Callable[[int], int] = mounts.copy_of
    lookup: Callable[[], AbstractContextManager[object]] = nullcontext


_BY_US: Final = How()

_COVERED: Final = (errno.EXDEV,)  # something is mounted on the way


class Wanted(NamedTuple):
    """A mount by its steps, and what of it, below its root; empty: all."""

    steps: Steps
    below: bytes = b""

    @property
    def path(self) -> bytes:
        """Where it is found, for people."""
        return os.path.join(b"/", *self.steps, self.below)


def steps_of(lines: Sequence[MountLine]) -> dict[int, Steps]:
    """The steps to each mount, by its number. A mount is on one place of another one."""
    by_number = {one.number: one for one in lines}
    known: dict[int, Steps] = {}

    def find(line: MountLine) -> Steps:
        if line.number not in known:
            parent = by_number.get(line.parent)
            known[line.number] = (
                () if parent is None else (*find(parent), point_within(line, parent))
            )
        return known[line.number]

    for line in lines:
        find(line)
    return known


def point_within(line: MountLine, parent: MountLine) -> bytes:
    """Where a mount is on its parent, below that one's root."""
    return line.point[len(parent.point.rstrip(b"/")) :].lstrip(b"/")


class Processes:
    """This process's mountinfo, by a descriptor of our /proc: wherever it goes, there may be another one or none."""

    def __init__(self) -> None:
        self._folder = os.open("/proc", os.O_PATH | os.O_CLOEXEC)

    def lines(self) -> list[MountLine]:
        """What is mounted where we are."""
        fd = os.open("thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=self._folder)
        with open(fd, "rb") as file:
            return proc.parse_mountinfo(file.read())

    def close(self) -> None:
        os.close(self._folder)


@contextmanager
def stay_with(tid: int) -> Iterator[Processes]:
    """Within, paths of this thread are those of another one's namespace (`mounts.stay`)."""
    with ExitStack() as opened:
        processes = Processes()
        opened.callback(processes.close)
        namespace = os.open(f"/proc/{tid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        opened.callback(os.close, namespace)
        with mounts.stay(namespace):
            yield processes


def copies(processes: Processes, wanted: Sequence[Wanted], how: How = _BY_US) -> list[int]:
    """A descriptor for each. OSError (ENOENT) when there is no such mount, or nothing of that name in it."""
    made: dict[int, int] = {}  # position in `wanted` → descriptor
    try:
        _copy_visible(processes.lines(), wanted, made, how)
        if len(made) < len(wanted):
            mounts.leave_alone()
            _Apart(processes.lines(), wanted, made, how).visit_all()
        if len(made) < len(wanted):
            missing = next(one for number, one in enumerate(wanted) if number not in made)
            raise FileNotFoundError(errno.ENOENT, "no such mount", missing.path)
        return [made[number] for number in range(len(wanted))]
    except BaseException:
        for fd in made.values():
            os.close(fd)
        raise


def visible_copies(processes: Processes, wanted: Sequence[Wanted], how: How = _BY_US) -> list[int]:
    """A descriptor for each that a path leads to; -1 for the others."""
    made: dict[int, int] = {}
    _copy_visible(processes.lines(), wanted, made, how)
    return [made.get(number, -1) for number in range(len(wanted))]


def reach(lines: Sequence[MountLine], steps: Steps) -> int | None:
    """A descriptor of the root of that mount, where a path leads to it."""
    number = next((one for one, found in steps_of(lines).items() if found == steps), None)
    line = next((one for one in lines if one.number == number), None)
    if line is None:
        return None
    try:
        fd = os.open(line.point, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return None  # what is mounted above has no such name
    if mounts.number_behind(fd) == line.number:
        return fd
    os.close(fd)
    return None


def _copy_visible(
    lines: Sequence[MountLine], wanted: Sequence[Wanted], made: dict[int, int], how: How
) -> None:
    for number, one in enumerate(wanted):
        if (fd := reach(lines, one.steps)) is None:
            continue
        try:
            made[number] = _copy_within(fd, one, how)
        except OSError as error:
            if error.errno not in _COVERED:
                raise
        finally:
            os.close(fd)


def _copy_within(root: int, one: Wanted, how: How) -> int:
    if not one.below:
        return how.copy(root)
    try:
        with how.lookup():
            place = mounts.open_within(root, one.below)
    except OSError as error:
        raise OSError(error.errno, error.strerror, one.path) from error
    try:
        return how.copy(place)
    finally:
        os.close(place)


class _Apart:
    """Unmounts what is here, those on top first, and copies on the way."""

    def __init__(
        self,
        lines: Sequence[MountLine],
        wanted: Sequence[Wanted],
        made: dict[int, int],
        how: How,
    ) -> None:
        self._how = how
        self._steps = steps_of(lines)
        self._wanted = wanted
        self._made = made
        numbers = {one.number for one in lines}
        self._root = next(one for one in lines if one.parent not in numbers)
        self._children: dict[int, list[MountLine]] = {}
        for line in lines:
            self._children.setdefault(line.parent, []).append(line)

    def visit_all(self) -> None:
        self._visit(self._root)

    def _visit(self, line: MountLine) -> None:
        # what is mounted on a directory hides what was mounted below that before
        for child in sorted(self._children.get(line.number, ()), key=lambda one: len(one.point)):
            self._visit(child)
            mounts.detach(child.point)
        root = os.open(line.point, os.O_PATH | os.O_CLOEXEC)
        try:
            for number, one in enumerate(self._wanted):
                if number not in self._made and one.steps == self._steps[line.number]:
                    self._made[number] = _copy_within(root, one, self._how)
        finally:
            os.close(root)
