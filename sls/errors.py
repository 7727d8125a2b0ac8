"""What can go wrong with live processes, and who is to blame.

    SlsError
    ├── UnsupportedResourceError   task: it holds something that cannot be kept
    ├── BusyResourceError          task: it holds something that cannot be captured at this instant
    ├── TaskDiedError              task: it ended while it was worked on
    ├── FreezeError                task: it cannot be stopped or traced
    ├── RemoteSyscallError         kernel: a call made inside a task failed
    ├── RestoreConflictError       caller: the world lacks or already has what the image needs
    ├── ImageError                 image: not readable by this version, or inconsistent
    ├── PartitionStateError        caller: the request does not fit the partition's state
    ├── BaseDeletedError           caller: what a delta was to build on was deleted meanwhile
    ├── MissedObservationError     task: it changed what it was asked about at leisure
    ├── NotKeptError               store: memory of a running task could not be kept
    └── WorkerError                kernel: the tracer process failed
        └── WorkerEndedError       kernel: it ended

Every message ends with what to do. `errno` is what a control file returns; `exit_status` what slsctl ends with.
"""

import errno as _errno
import os


class SlsError(Exception):
    """Base of all errors of this layer."""

    errno: int = _errno.EIO
    exit_status: int = 1


class UnsupportedResourceError(SlsError):
    """A task holds a resource that cannot be captured; the task is unharmed."""

    errno = _errno.EOPNOTSUPP

    def __init__(self, pid: int, resource: str, detail: str) -> None:
        self.pid = pid
        self.resource = resource
        self.detail = detail
        super().__init__(f"pid {pid}: {resource}: {detail}")


class BusyResourceError(UnsupportedResourceError):
    """A task holds a resource that cannot be captured at this instant, but perhaps at the next."""

    errno = _errno.EAGAIN


class TaskDiedError(SlsError):
    """A task ended while it was worked on."""

    errno = _errno.ESRCH

    def __init__(self, pid: int, doing: str = "work on it") -> None:
        self.pid = pid
        super().__init__(f"pid {pid} ended during {doing}; attach what still runs and try again")


class FreezeError(SlsError):
    """A task cannot be stopped: it is traced by someone else, or belongs to the kernel."""

    errno = _errno.EPERM

    def __init__(self, pid: int, reason: str, code: int = _errno.EPERM) -> None:
        self.pid = pid
        self.errno = code
        super().__init__(f"pid {pid} {reason}")


def untraceable(pid: int) -> FreezeError:
    """The kernel does not let us trace it: ptrace(2), "Ptrace access mode checking"."""
    return FreezeError(
        pid, "may not be traced: it has rights that this filesystem's daemon lacks; choose another"
    )


class RemoteSyscallError(SlsError):
    """A system call made inside a task failed."""

    def __init__(self, pid: int, call: str, code: int) -> None:
        self.pid = pid
        self.call = call
        self.errno = code
        super().__init__(f"pid {pid}: {call} failed inside the task: {os.strerror(code)}")


class RestoreConflictError(SlsError):
    """The machine lacks what the image needs, or has it already (a pid, a path, an address)."""

    errno = _errno.EEXIST

    def __init__(self, message: str, code: int = _errno.EEXIST) -> None:
        self.errno = code
        super().__init__(message)


class ImageError(SlsError):
    """A generation's image is of another version, damaged, or contradicts itself."""

    errno = _errno.EINVAL


class PartitionStateError(SlsError):
    """The request does not fit the state of the partition."""

    def __init__(self, message: str, code: int = _errno.EINVAL) -> None:
        self.errno = code
        super().__init__(message)


class BaseDeletedError(SlsError):
    """The generation that a delta builds on was deleted while it was captured."""

    errno = _errno.ENOENT

    def __init__(self) -> None:
        super().__init__("the generation that a delta builds on was deleted; take a full one")


class MissedObservationError(SlsError):
    """What nobody looked at while the task stood still; the capture is taken again, asking as it goes."""

    errno = _errno.EAGAIN


class NotKeptError(SlsError):
    """The store did not take what was copied before the stop; the words and the number are the store's."""

    errno = _errno.EIO


class WorkerError(SlsError):
    """The tracer process of a partition ended or answered something unexpected."""

    errno = _errno.EIO


class WorkerEndedError(WorkerError):
    """The tracer process of a partition has ended. `has_begun`: it may have done a part of what it was asked."""

    def __init__(self, *, has_begun: bool) -> None:
        self.has_begun = has_begun
        super().__init__("the tracer process has ended; try again")


def rebuilt(kind: str, text: str, code: int) -> SlsError:
    """The error that another process raised, by its class's name, words and errno; WorkerError for foreign kinds."""
    found = globals().get(kind)
    chosen = found if isinstance(found, type) and issubclass(found, SlsError) else WorkerError
    error = chosen.__new__(chosen)
    Exception.__init__(error, text)
    error.errno = code
    return error
