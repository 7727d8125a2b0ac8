"""Character devices without state: /dev/null and its kin. Others are refused by name.

Not kept: devices with a state of their own, refused by name.
Kernel: any.
"""

import os
import stat
from typing import Final

from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext

# mem devices of major 1 (Documentation/admin-guide/devices.txt): null, zero, full, random, urandom, kmsg is not one
_STATELESS: Final = {os.makedev(1, minor) for minor in (3, 5, 7, 8, 9)}


class DeviceRecord(FileRecord, frozen=True, tag="device"):
    """A stateless device by its path."""

    path: bytes


class Device(FileType[DeviceRecord]):
    """/dev/null, zero, full, random, urandom."""

    record = DeviceRecord

    def matches(self, file: OpenFile) -> bool:
        return (
            file.target.startswith(b"/dev/")
            and stat.S_ISCHR(file.stat.st_mode)
            and file.stat.st_rdev in _STATELESS
        )

    def can_wait(self, file: OpenFile) -> bool:
        return True

    def capture(self, ctx: CaptureContext, file: OpenFile) -> DeviceRecord:
        return DeviceRecord(file_id=file.file_id, flags=file.flags, path=file.target)

    def restore(self, ctx: RestoreContext, record: DeviceRecord) -> int:
        with ctx.as_owner():
            return ctx.trees[record.mounts].open(record.path, record.flags & ~os.O_CREAT)
