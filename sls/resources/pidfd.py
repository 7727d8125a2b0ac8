"""pidfd_open(2): a descriptor of a process, of the partition or outside of it, running or ended.

Not kept: nothing; one of a process outside that has gone is told.
Kernel: Linux 5.3; of a thread 6.9.
"""

import os

from sls import proc, syscalls
from sls.errors import TaskDiedError
from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile, RestoreContext

_PIDFD_THREAD = os.O_EXCL  # include/uapi/linux/pidfd.h, Linux 6.9


class PidfdRecord(FileRecord, frozen=True, tag="pidfd"):
    """`pid` 0: that process has ended. `start_time_ticks`: of one outside, to know it again."""

    pid: int
    start_time_ticks: int = 0


class Pidfd(FileType[PidfdRecord]):
    """Processes as files."""

    record = PidfdRecord
    is_late = True

    def matches(self, file: OpenFile) -> bool:
        return file.target.startswith((b"anon_inode:[pidfd]", b"pidfd:["))

    def capture(self, ctx: CaptureContext, file: OpenFile) -> PidfdRecord:
        pid = max(int(file.info["Pid"]), 0)
        start_time = 0
        if pid and pid not in ctx.processes:
            ctx.lose(
                file.pid, f"fd {file.fd}", f"pid {pid} behind a pidfd is outside of the partition"
            )
            start_time = proc.stat(pid).start_time_ticks
        return PidfdRecord(
            file_id=file.file_id, flags=file.flags, pid=pid, start_time_ticks=start_time
        )

    def restore(self, ctx: RestoreContext, record: PidfdRecord) -> int:
        flags = record.flags & (os.O_NONBLOCK | _PIDFD_THREAD)
        if not record.pid or not _is_same(ctx, record):
            return _pidfd_of_ended(ctx, record)
        return syscalls.syscall("pidfd_open", record.pid, flags)


def _is_same(ctx: RestoreContext, record: PidfdRecord) -> bool:
    if not record.start_time_ticks:
        return True  # a process that is restored along
    try:
        return (
            ctx.is_same_boot and proc.stat(record.pid).start_time_ticks == record.start_time_ticks
        )
    except TaskDiedError:
        return False


def _pidfd_of_ended(ctx: RestoreContext, record: PidfdRecord) -> int:
    """What a pidfd is once its process was waited for: readable, and ESRCH to everything else."""
    if record.pid:
        ctx.note("pidfd", f"pid {record.pid}, which a pidfd meant, is gone; it reads as ended")
    child = os.fork()
    if not child:
        os._exit(0)
    try:
        return os.pidfd_open(child)
    finally:
        os.waitpid(child, 0)
