"""signalfd(2): a mask. The signals themselves wait in the queues of the process that reads.

Not kept: nothing.
Kernel: Linux 3.8 (fdinfo).
"""

from sls import syscalls
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext


class SignalfdRecord(FileRecord, frozen=True, tag="signalfd"):
    """Bit n-1 of `mask`: signal n."""

    mask: int


class Signalfd(FileType[SignalfdRecord]):
    """Signals that are read."""

    record = SignalfdRecord

    def matches(self, file: OpenFile) -> bool:
        return file.target == b"anon_inode:[signalfd]"

    def can_wait(self, file: OpenFile) -> bool:
        return True

    def capture(self, ctx: CaptureContext, file: OpenFile) -> SignalfdRecord:
        return SignalfdRecord(
            file_id=file.file_id, flags=file.flags, mask=int(file.info["sigmask"], 16)
        )

    def restore(self, ctx: RestoreContext, record: SignalfdRecord) -> int:
        return syscalls.signalfd(record.mask, 0)
