"""Pipes and FIFOs (pipe(7), fifo(7)) with the bytes in them, packets apart (O_DIRECT).

An end of a pipe outside of the partition is looked for again at restore, by inode number; a FIFO is opened by its path.

Not kept: nothing.
Kernel: Linux 2.6.35; packets apart from 3.4.
"""

import errno
import fcntl
import os
import select
import stat
import struct
import termios
from typing import Final, NamedTuple

from sls import proc, syscalls
from sls.errors import RestoreConflictError
from sls.mount_tree import MountTree
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    InFlightFile,
    OpenFile,
    RestoreContext,
)
from sls.resources.borrowing import Borrowing
from sls.resources.nameless import is_nameless

_SPLICE_F_NONBLOCK: Final = 2
_O_LARGEFILE: Final = 0o100000  # what open(2) adds to the flags, and pipe(2) does not


class PipeRecord(FileRecord, frozen=True, tag="pipe"):
    """One end of a pipe. The first record of a pipe carries its bytes.

    `packets`: what each read(2) of all it can get returns. `path`: of a FIFO, b"" of a pipe.
    """

    inode: int
    size_bytes: int
    packets: tuple[bytes, ...] = ()
    is_peer_outside: bool = False
    path: bytes = b""
    is_deleted: bool = False


class Pipe(FileType[PipeRecord]):
    """Ends of pipes and FIFOs."""

    record = PipeRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target.startswith(b"pipe:[") or stat.S_ISFIFO(file.stat.st_mode)

    def can_wait(self, file: OpenFile) -> bool:
        return file.process.memo.of(_can_wait(file), file.target, lambda: False)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PipeRecord:
        inode = file.stat.st_ino
        is_fifo = not file.target.startswith(b"pipe:[")
        seen = _seen(file)
        outside = _has_outside_peer(ctx, file, seen)
        if outside and (not is_fifo or seen.unread_bytes):
            name = file.target.decode(errors="replace")
            ctx.lose(
                file.pid, f"fd {file.fd}", f"the other end of {name} is outside of the partition"
            )
        packets: tuple[bytes, ...] = ()
        if ctx.is_first_sight(("pipe", file.stat.st_dev, inode)) and not outside:
            packets = _packets(ctx, file, seen)
        file.process.memo.put(_can_wait(file), file.target, not is_fifo)
        return PipeRecord(
            file_id=file.file_id,
            flags=file.flags,
            inode=inode,
            size_bytes=seen.size_bytes,
            packets=packets,
            is_peer_outside=outside,
            path=file.target.removesuffix(b" (deleted)") if is_fifo else b"",
            is_deleted=is_fifo and is_nameless(file.tree, file.target, file.stat),
        )

    def restore(self, ctx: RestoreContext, record: PipeRecord) -> int:
        mode = record.flags & os.O_ACCMODE
        if record.is_peer_outside and not record.path:
            return _reconnect(ctx, record, mode)
        make = _make_fifo if record.path else _make_pipe
        ends = ctx.once(
            ("pipe", record.mounts, record.path, record.inode), lambda: make(ctx, record)
        )
        if record.packets and not _unread_bytes(ends.both):
            _refill(ends.both, record)
        if not record.flags & _O_LARGEFILE:
            return os.dup(ends.read_end if mode == os.O_RDONLY else ends.write_end)
        return os.open(f"/proc/self/fd/{ends.both}", mode | os.O_NONBLOCK | os.O_CLOEXEC)


# --- capture --------------------------------------------------------------------------------------------------------


class _Seen(NamedTuple):
    """One end. `has_hung_up`: nobody has the other one. `packets`: None where they cannot be read by it."""

    size_bytes: int
    unread_bytes: int
    has_hung_up: bool
    packets: tuple[bytes, ...] | None


class _Glance:
    """One end of a pipe, to be looked at again and again."""

    def __init__(self, file: OpenFile) -> None:
        self._borrowing = Borrowing(file.process, [file.fd])
        self._mode = file.flags & os.O_ACCMODE

    def look(self) -> _Seen:
        """What is seen by it. Raises TaskDiedError, OSError."""
        with self._borrowing.borrowed() as ours:
            return _look(int(ours[0]), self._mode)


def _look(fd: int, mode: int) -> _Seen:
    size, unread = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ), _unread_bytes(fd)
    poller = select.poll()
    poller.register(fd, select.POLLIN if mode == os.O_RDONLY else select.POLLOUT)
    events = dict(poller.poll(0)).get(fd, 0)
    has_hung_up = bool(events & (select.POLLHUP if mode == os.O_RDONLY else select.POLLERR))
    packets: tuple[bytes, ...] | None = ()
    if unread:
        packets = _peek(fd, size) if mode != os.O_WRONLY else None
    return _Seen(size, unread, has_hung_up, packets)


def _can_wait(file: OpenFile) -> str:
    return f"pipe {file.fd} can wait"


def _seen(file: OpenFile) -> _Seen:
    mode = file.flags & os.O_ACCMODE
    if isinstance(file, InFlightFile):
        return _look(file.descriptor, mode)
    text = b"%d %d %b" % (file.pid, mode, file.target)
    glance = file.process.memo.of(f"pipe {file.fd}", text, lambda: _Glance(file))
    return file.process.looks.meanwhile(("pipe", file.fd, text), glance.look)


def _has_outside_peer(ctx: CaptureContext, file: OpenFile, seen: _Seen) -> bool:
    """Whether the other end is open somewhere, but not in the partition."""
    mode = file.flags & os.O_ACCMODE
    if mode == os.O_RDWR:
        return False
    for other in ctx.files.values():
        if other.target == file.target and other.flags & os.O_ACCMODE != mode:
            return False
    return not seen.has_hung_up


def _unread_bytes(fd: int) -> int:
    """FIONREAD."""
    return int(struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def _packets(ctx: CaptureContext, file: OpenFile, seen: _Seen) -> tuple[bytes, ...]:
    if seen.packets is not None:
        return seen.packets
    file.process.looks.must_be_at_rest("what is in a pipe")
    source, ours = _read_end(ctx, file)
    try:
        return _peek(source, seen.size_bytes)
    finally:
        for fd in ours:
            os.close(fd)


def _peek(source: int, size_bytes: int) -> tuple[bytes, ...]:
    """What is in the pipe, by tee(2): nothing is taken out. A read of the copy ends where a packet ends."""
    spare_read, spare_write = os.pipe()
    try:
        fcntl.fcntl(spare_write, fcntl.F_SETPIPE_SZ, size_bytes)
        os.set_blocking(spare_read, False)
        packets = []
        try:
            syscalls.syscall("tee", source, spare_write, size_bytes, _SPLICE_F_NONBLOCK)
            while chunk := os.read(spare_read, size_bytes):
                packets.append(chunk)
        except BlockingIOError:
            pass  # empty, or empty again
        return tuple(packets)
    finally:
        os.close(spare_read)
        os.close(spare_write)


def _read_end(ctx: CaptureContext, file: OpenFile) -> tuple[int, tuple[int, ...]]:
    """A descriptor that reads, and those to close. A new one is opened only where nobody has one: none notices."""
    for other in (file, *ctx.files.values()):
        if other.target == file.target and other.flags & os.O_ACCMODE != os.O_WRONLY:
            return other.descriptor, ()
    fd = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    return fd, (fd,)


# --- restore --------------------------------------------------------------------------------------------------------


class _Ends(NamedTuple):
    """Descriptors of one pipe: `both` reads and writes; the others are as pipe(2) made them, of a FIFO the same."""

    both: int
    read_end: int
    write_end: int


def _make_pipe(ctx: RestoreContext, record: PipeRecord) -> _Ends:
    read_end, write_end = map(ctx.opened, os.pipe())
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, record.size_bytes)
    both = os.open(f"/proc/self/fd/{read_end}", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    return _Ends(ctx.opened(both), read_end, write_end)


def _make_fifo(ctx: RestoreContext, record: PipeRecord) -> _Ends:
    """Reading and writing, it does not wait for a peer (fifo(7))."""
    name = record.path.decode(errors="replace")
    try:
        with ctx.as_owner():
            fd = _open_fifo(ctx.trees[record.mounts], record)
    except OSError as error:
        raise RestoreConflictError(
            f"{name}: {error.strerror}; put the FIFO back and restore again",
            error.errno or errno.ENOENT,
        ) from error
    if not stat.S_ISFIFO(os.fstat(fd).st_mode):
        os.close(fd)
        raise RestoreConflictError(f"{name} is no FIFO any more; put it back", errno.ESTALE)
    fcntl.fcntl(ctx.opened(fd), fcntl.F_SETPIPE_SZ, record.size_bytes)
    return _Ends(fd, fd, fd)


def _open_fifo(tree: MountTree, record: PipeRecord) -> int:
    flags = os.O_RDWR | os.O_NONBLOCK
    if not record.is_deleted:
        return tree.open(record.path, flags)
    with tree.beside(b"%s.%d" % (record.path, os.getpid())) as path:
        os.mkfifo(path, 0o600)
        fd = os.open(path, flags | os.O_CLOEXEC)
        os.unlink(path)
    return fd


def _refill(fd: int, record: PipeRecord) -> None:
    is_packets = len(record.packets) > 1
    if is_packets:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK | os.O_DIRECT)
    for packet in record.packets:
        written = os.write(fd, packet)
        assert written == len(packet), "a pipe of the same size takes the same bytes"
    if is_packets:
        fcntl.fcntl(fd, fcntl.F_SETFL, os.O_NONBLOCK)


def _reconnect(ctx: RestoreContext, record: PipeRecord, mode: int) -> int:
    """The same pipe through a process that still holds it; else /dev/null, which reads as the end."""
    if ctx.is_same_boot:
        wanted = b"pipe:[%d]" % record.inode
        for pid in proc.pids():
            fd = proc.find_descriptor(pid, wanted)
            if fd is not None and pid != os.getpid():
                return os.open(f"/proc/{pid}/fd/{fd}", mode)
    ctx.note("pipe", f"pipe:[{record.inode}] has no holder any more; /dev/null stands in for it")
    return os.open("/dev/null", mode)
