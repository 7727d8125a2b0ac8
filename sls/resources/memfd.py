"""memfd_create(2): name, bytes, seals, position; mappings of it are of the same object (`nameless`).

Not kept: secret memory, refused.
Kernel: Linux 3.17.
"""

import os

from sls.mount_tree import OURS
from sls.remote import Remote
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    RestoreContext,
    RestoredProcess,
)
from sls.resources.nameless import Nameless, capture_nameless, nameless_descriptor, seal


class MemfdRecord(FileRecord, frozen=True, tag="memfd"):
    """One open file description of a memfd."""

    inode: Nameless
    position: int


class Memfd(FileType[MemfdRecord]):
    """Files in memory."""

    record = MemfdRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target.startswith(b"/memfd:")

    def capture(self, ctx: CaptureContext, file: OpenFile) -> MemfdRecord:
        link = f"/proc/{file.pid}/fd/{file.fd}"
        return MemfdRecord(
            file_id=file.file_id,
            flags=file.flags,
            inode=capture_nameless(ctx, OURS, link, file.target, file.stat),
            position=file.position,
        )

    def restore(self, ctx: RestoreContext, record: MemfdRecord) -> int:
        source = nameless_descriptor(ctx, record.inode, os.O_RDONLY)
        fd = os.open(f"/proc/self/fd/{source}", record.flags & ~os.O_CREAT | os.O_CLOEXEC)
        os.lseek(fd, record.position, os.SEEK_SET)
        return fd

    def link(
        self, ctx: RestoreContext, record: MemfdRecord, process: RestoredProcess, fd: int
    ) -> Remote[None]:
        yield from ()
        seal(ctx, record.inode)
