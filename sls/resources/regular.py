"""Regular files and directories: path, offset and flags (open(2)). A directory's position is its offset as well."""

import errno
import os
import stat

from sls.errors import RestoreConflictError
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext

_CREATION_FLAGS = os.O_CREAT | os.O_EXCL | os.O_TRUNC | os.O_NOCTTY


class RegularRecord(FileRecord, frozen=True, tag="regular"):
    """A file or directory by its path."""

    path: bytes
    position: int
    is_directory: bool
    size_bytes: int


class Regular(FileType[RegularRecord]):
    """Files and directories with a path."""

    record = RegularRecord

    def matches(self, file: OpenFile) -> bool:
        if not file.target.startswith(b"/"):
            return False
        return stat.S_ISREG(file.stat.st_mode) or stat.S_ISDIR(file.stat.st_mode)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> RegularRecord:
        if not file.stat.st_nlink or file.target.endswith(b" (deleted)"):
            raise file.unsupported(
                f"{file.target.decode(errors='replace')}: a deleted file is not supported yet"
            )
        if file.info.lines("lock:"):
            raise file.unsupported(
                f"{file.target.decode(errors='replace')}: file locks are not supported yet"
            )
        return RegularRecord(
            file_id=file.file_id,
            flags=file.flags & ~_CREATION_FLAGS,
            path=file.target,
            position=file.position,
            is_directory=stat.S_ISDIR(file.stat.st_mode),
            size_bytes=file.stat.st_size,
        )

    def restore(self, ctx: RestoreContext, record: RegularRecord) -> int:
        try:
            fd = os.open(record.path, record.flags | os.O_CLOEXEC)
        except OSError as error:
            raise RestoreConflictError(
                f"{record.path.decode(errors='replace')}: {error.strerror}; put it back and restore again",
                error.errno or errno.ENOENT,
            ) from error
        if not record.flags & os.O_PATH:
            os.lseek(fd, record.position, os.SEEK_SET)
        return fd
