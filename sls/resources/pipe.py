"""pipe(2) and the bytes in it. An end outside of the partition is looked for again at restore, by inode number."""

import fcntl
import os
import select

from sls import proc, syscalls
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext


class PipeRecord(FileRecord, frozen=True, tag="pipe"):
    """One end of a pipe. The first record of a pipe carries its bytes."""

    inode: int
    size_bytes: int
    contents: bytes = b""
    is_peer_outside: bool = False


class Pipe(FileType[PipeRecord]):
    """Ends of pipes."""

    record = PipeRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target.startswith(b"pipe:[")

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PipeRecord:
        if file.flags & os.O_DIRECT:
            raise file.unsupported("a pipe in packet mode (O_DIRECT) is not supported")
        inode = file.stat.st_ino
        outside = _has_outside_peer(ctx, file)
        if outside:
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                f"the other end of pipe:[{inode}] is outside of the partition",
            )
        contents = b""
        if ctx.is_first_sight(("pipe", inode)) and not outside:
            contents = _peek(file)
        return PipeRecord(
            file_id=file.file_id,
            flags=file.flags,
            inode=inode,
            size_bytes=fcntl.fcntl(file.descriptor, fcntl.F_GETPIPE_SZ),
            contents=contents,
            is_peer_outside=outside,
        )

    def restore(self, ctx: RestoreContext, record: PipeRecord) -> int:
        mode = record.flags & os.O_ACCMODE
        if record.is_peer_outside:
            return _reconnect(ctx, record, mode)
        read_end, write_end = ctx.once(
            ("pipe", record.inode), lambda: _make(ctx, record.size_bytes)
        )
        if record.contents:
            os.set_blocking(write_end, False)
            written = os.write(write_end, record.contents)
            assert written == len(record.contents), "a pipe of the same size takes the same bytes"
        return os.open(f"/proc/self/fd/{read_end if mode == os.O_RDONLY else write_end}", mode)


def _make(ctx: RestoreContext, size_bytes: int) -> tuple[int, int]:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size_bytes)
    return ctx.opened(read_end), ctx.opened(write_end)


def _has_outside_peer(ctx: CaptureContext, file: OpenFile) -> bool:
    """Whether the other end is open somewhere, but not in the partition."""
    mode = file.flags & os.O_ACCMODE
    for other in ctx.files.values():
        if other.target == file.target and other.flags & os.O_ACCMODE != mode:
            return False
    poller = select.poll()
    poller.register(file.descriptor, select.POLLIN if mode == os.O_RDONLY else select.POLLOUT)
    events = dict(poller.poll(0)).get(file.descriptor, 0)
    return not events & (select.POLLHUP if mode == os.O_RDONLY else select.POLLERR)


def _peek(file: OpenFile) -> bytes:
    """The bytes in the pipe, by tee(2): nothing is taken out."""
    read_end = os.open(f"/proc/{file.pid}/fd/{file.fd}", os.O_RDONLY | os.O_NONBLOCK)
    spare_read, spare_write = os.pipe()
    try:
        size = fcntl.fcntl(read_end, fcntl.F_GETPIPE_SZ)
        fcntl.fcntl(spare_write, fcntl.F_SETPIPE_SZ, size)
        os.set_blocking(spare_read, False)
        _tee(read_end, spare_write, size)
        contents = b""
        try:
            while chunk := os.read(spare_read, size):
                contents += chunk
        except BlockingIOError:
            pass
        return contents
    finally:
        for fd in (read_end, spare_read, spare_write):
            os.close(fd)


def _tee(source: int, target: int, size: int) -> None:
    try:
        syscalls.syscall("tee", source, target, size, 2)  # SPLICE_F_NONBLOCK
    except BlockingIOError:
        pass  # empty


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
