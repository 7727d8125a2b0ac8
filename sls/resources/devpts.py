"""Instances of devpts (Documentation/filesystems/devpts.rst): the terminals of each have numbers of their own.

Not a resource of its own: each pty (`tty`) is of one. A container's is mounted in its mount namespace. A slave's inode
tells which it is; of a controlling terminal only the number is told, and the masters know whose session it is.
"""

import fcntl
import os
import struct
from collections.abc import Iterator
from typing import Final

from sls import proc
from sls.proc import MountLine
from sls.resources.base import CaptureContext, CapturedProcess, OpenFile, Record

_SLAVE_MAJORS: Final = range(136, 144)
_TIOCGPTPEER, _TIOCGSID = 0x5441, 0x5429  # asm-generic/ioctls.h
_OF_OURS: Final = (b"/dev/ptmx", b"/dev/pts/")


class Devpts(Record, frozen=True):
    """One instance. `device`: tells it from others; 0: ours. Paths are of the mount namespace `mounts`.

    `folder`: where it is mounted; `multiplexer`: what is opened for a new pair.
    """

    device: int = 0
    folder: bytes = b"/dev/pts"
    multiplexer: bytes = b"/dev/ptmx"
    mounts: bytes = b""

    def path_of(self, index: int) -> bytes:
        """Of a slave."""
        return b"%s/%d" % (self.folder, index)


OURS: Final = Devpts()


def is_slave(device: int) -> bool:
    """Whether a terminal of that device number is the slave of a pty."""
    return os.major(device) in _SLAVE_MAJORS


def pty_index(device: int) -> int:
    """The number of a pty: the kernel gives all of them to the first major, MINORBITS being 20."""
    return os.minor(device)


def open_slave(master: int, flags: int) -> int:
    """TIOCGPTPEER (Linux 4.13) needs no path. O_CLOEXEC would stay in the file flags, and in fdinfo for ever."""
    fd: int = fcntl.ioctl(master, _TIOCGPTPEER, flags & ~os.O_CLOEXEC | os.O_NOCTTY)
    os.set_inheritable(fd, False)
    return fd


# --- capture --------------------------------------------------------------------------------------------------------


def instance_of_slave(file: OpenFile) -> Devpts:
    """Of an open slave, or an UnsupportedResourceError."""
    return file.once("devpts", lambda: _instance(file, file.stat.st_dev, b""))


def instance_of_master(file: OpenFile) -> Devpts:
    """Of an open master, or an UnsupportedResourceError."""
    return file.once("devpts", lambda: _instance(file, _device_of_slave(file), file.target))


def instance_of_session(ctx: CaptureContext, process: CapturedProcess, index: int) -> Devpts:
    """Of the controlling terminal of that number which a process has, or an UnsupportedResourceError."""
    masters = [(one, instance_of_master(one)) for one in masters_inside(ctx, index)]
    own = [line for line in process.tree.lines if _is_own(line) and _has(process, line, index)]
    if not own and not any(instance.device for _, instance in masters):
        return OURS
    for file, instance in masters:
        if _session_of(file) == process.stat.session:
            return instance
    if own:
        raise process.unsupported(
            "terminal",
            f"a controlling terminal that may be number {index} of a devpts of its own, whose master is outside",
        )
    return OURS


def masters_inside(ctx: CaptureContext, index: int) -> Iterator[OpenFile]:
    """Masters of that number that the members have open, of whatever instance."""
    for file in ctx.files.values():
        if "tty-index" in file.info and int(file.info["tty-index"]) == index:
            yield file


def _instance(file: OpenFile, device: int, multiplexer: bytes) -> Devpts:
    if not device or device == os.stat(OURS.folder).st_dev:
        return OURS
    lines = file.tree.lines or proc.parse_mountinfo(proc.read(os.getpid(), "mountinfo"))
    for line in lines:
        if line.device == device and line.kind == b"devpts" and line.root == b"/":
            return Devpts(
                device=device,
                folder=line.point,
                multiplexer=multiplexer or line.point + b"/ptmx",
                mounts=file.tree.link,
            )
    raise file.unsupported("a terminal of a devpts that is mounted nowhere is not supported")


def _device_of_slave(file: OpenFile) -> int:
    """st_dev; 0 where the path of the master tells that it is ours."""
    if not file.tree.link and file.target.startswith(_OF_OURS):
        return 0
    slave = open_slave(file.descriptor, os.O_RDWR | os.O_NONBLOCK)
    try:
        return os.fstat(slave).st_dev
    finally:
        os.close(slave)


def _is_own(line: MountLine) -> bool:
    return line.kind == b"devpts" and line.device != os.stat(OURS.folder).st_dev


def _has(process: CapturedProcess, line: MountLine, index: int) -> bool:
    try:
        process.tree.stat(b"%s/%d" % (line.point, index))
    except OSError:
        return False
    return True


def _session_of(master: OpenFile) -> int:
    """Whose controlling terminal the slave is; 0: nobody's."""
    try:
        data = fcntl.ioctl(master.descriptor, _TIOCGSID, bytes(4))
    except OSError:
        return 0
    return int(struct.unpack("=i", data)[0])
