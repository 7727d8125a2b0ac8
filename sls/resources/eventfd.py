"""eventfd(2): a 64-bit counter, read whole or, as a semaphore, by ones.

Not kept: nothing.
Kernel: Linux 6.5 (eventfd-semaphore in fdinfo).
"""

import os

from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext


class EventfdRecord(FileRecord, frozen=True, tag="eventfd"):
    """State of one eventfd."""

    count: int
    semaphore: bool


class Eventfd(FileType[EventfdRecord]):
    """Counters."""

    record = EventfdRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target == b"anon_inode:[eventfd]"

    def can_wait(self, file: OpenFile) -> bool:
        return True

    def capture(self, ctx: CaptureContext, file: OpenFile) -> EventfdRecord:
        return EventfdRecord(
            file_id=file.file_id,
            flags=file.flags,
            count=int(file.info["eventfd-count"], 16),
            semaphore=file.info["eventfd-semaphore"] == "1",
        )

    def restore(self, ctx: RestoreContext, record: EventfdRecord) -> int:
        fd = os.eventfd(0, os.EFD_SEMAPHORE if record.semaphore else 0)
        if record.count:  # initval of eventfd(2) has 32 bits, the counter 64
            os.eventfd_write(fd, record.count)
        return fd
