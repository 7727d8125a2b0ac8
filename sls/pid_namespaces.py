"""Who is in which pid namespace (pid_namespaces(7)), as an image tells, and how he came there. Pure.

A namespace is told by its first process. Whoever is in one was born there: of a parent that is in it, of one that had
unshared it for its children, or of one that had entered another's (setns(2)) for them.
"""

from collections.abc import Iterator
from itertools import takewhile

from sls.image import Image, ProcessImage


class PidNamespaces:
    """Those below the restorer's."""

    def __init__(self, image: Image) -> None:
        self._images = {one.pid: one for one in image.processes}
        self._firsts = {one.pid_namespaces.pid: one for one in image.processes if one.is_init}
        self.numbers = dict(_numbers_inside(image))
        """Number here → those in namespaces below ours, the outermost first."""

    def is_in_unshared(self, image: ProcessImage) -> bool:
        """Whether it is of the namespace that its parent has unshared for its children, but is not in itself."""
        parent = self._images.get(image.ppid)
        if parent is None or depth(image) <= depth(parent):
            return False
        link = parent.pid_namespaces.pid_for_children
        return bool(link) and self._is_own(parent, link)

    def entered(self, image: ProcessImage) -> ProcessImage | None:
        """The first process of the namespace, where a process was born by way of setns(2)."""
        if not image.inside or image.is_init or self.is_in_unshared(image):
            return None
        parent = self._images.get(image.ppid)
        link = self._link(image, parent)
        if parent is not None and parent.pid_namespaces.pid == link:
            return None
        return self._firsts.get(link)

    def entered_for_children(self, image: ProcessImage) -> ProcessImage | None:
        """The first process of the namespace that a process has entered for its children to come."""
        link = image.pid_namespaces.pid_for_children
        return None if not link or self._is_own(image, link) else self._firsts.get(link)

    def _is_own(self, parent: ProcessImage, link: bytes) -> bool:
        """Whether a process has made that namespace, whose first process is its child then."""
        first = self._firsts.get(link)
        return first is None or first.ppid == parent.pid

    def _link(self, image: ProcessImage, parent: ProcessImage | None) -> bytes:
        """A zombie does not tell."""
        if image.exit_status is None or parent is None:
            return image.pid_namespaces.pid
        names = parent.pid_namespaces
        return names.pid if depth(image) == depth(parent) else names.pid_for_children


def depth(image: ProcessImage) -> int:
    """How many pid namespaces below ours it is in."""
    return len(image.inside.pid) if image.inside else 0


def _numbers_inside(image: Image) -> Iterator[tuple[int, tuple[int, ...]]]:
    for process in image.processes:
        if process.inside is None:
            continue
        here = (process.pgid, process.sid, process.pid)
        below = (process.inside.pgid, process.inside.sid, process.inside.pid)
        for number, found in zip(here, below, strict=True):
            if known := tuple(takewhile(bool, found)):
                yield number, known
        yield from ((thread.tid, thread.inside) for thread in process.threads)
