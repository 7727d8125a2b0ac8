"""A short-lived child of the tracer that shares its descriptors: what it opens is open here, what it enters is its own.

So directories, ids and namespaces change there and never here. It ends by itself whatever becomes of us.
Knows no resource.
"""

import errno
import os
import select
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import msgspec

from sls import syscalls

T = TypeVar("T")
_NEW_PID: Final = 0x20000000


def run_apart(work: Callable[[], object]) -> None:
    """Run `work` (system calls only) in a child. OSError with the errno of its failure."""
    run_as_number(work, 0)


def run_as_number(work: Callable[[], object], number: int) -> int:
    """`run_apart` in a child of that pid; returns 0 when that is taken and it had any other."""
    try:
        child = syscalls.clone_child(number)
    except OSError as error:
        if not number or error.errno not in (errno.EEXIST, errno.EPERM, errno.EINVAL):
            raise
        number = 0
        child = syscalls.clone_child(0)
    if not child:
        _end_with(work)
    code = os.waitstatus_to_exitcode(os.waitpid(child, syscalls.WALL)[1])
    if code:
        raise OSError(abs(code), os.strerror(abs(code)), "in a stand-in process")
    return number


@contextmanager
def held_child(begin: Callable[[], object]) -> Iterator[int]:
    """A child that has done `begin`, does nothing more and is there within the block. OSError as of `run_apart`."""
    ready = os.eventfd(0, os.EFD_CLOEXEC)
    child = syscalls.clone_child(0)
    if not child:
        _end_with(lambda: _begin_and_stay(begin, ready))
    pidfd = os.pidfd_open(child)
    try:
        if ready not in select.select([ready, pidfd], [], [])[0]:
            ended = os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT | syscalls.WALL)
            code = ended.si_status if ended else errno.EIO
            raise OSError(code, os.strerror(code), "in a stand-in process")
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, syscalls.WALL)
        os.close(pidfd)
        os.close(ready)


def _begin_and_stay(begin: Callable[[], object], ready: int) -> None:
    begin()
    os.eventfd_write(ready, 1)
    while True:
        signal.pause()


def told_by_child(look: Callable[[], T], kind: type[T]) -> T:
    """What `look` finds, in a child."""
    result = os.memfd_create("sls-told", os.MFD_CLOEXEC)
    try:
        run_apart(lambda: _write(result, look()))
        data = os.pread(result, os.fstat(result).st_size, 0)
        return msgspec.msgpack.decode(data, type=kind)
    finally:
        os.close(result)


def told_from_inside(pid: int, look: Callable[[], T], kind: type[T]) -> T:
    """What `look` finds, in a child that is in the pid namespace of process `pid`."""

    def enter() -> T:
        namespace = os.open(f"/proc/{pid}/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        syscalls.syscall("setns", namespace, _NEW_PID)  # children are in it, this one is not
        os.close(namespace)
        return told_by_child(look, kind)

    return told_by_child(enter, kind)


def _write(result: int, found: object) -> None:
    data = memoryview(msgspec.msgpack.encode(found))
    while data:
        data = data[os.write(result, data) :]


def _end_with(work: Callable[[], object]) -> None:
    code = errno.EFAULT
    try:
        work()
        code = 0
    except OSError as error:
        code = error.errno or errno.EIO
    finally:
        os._exit(code)
