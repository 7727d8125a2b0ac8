"""A short-lived child with a chosen number and ids, for the few calls whose caller the kernel remembers for ever.

socketpair(2), listen(2) and connect(2) of unix(7) write pid, uid, gid and groups of the caller into the socket, where
SO_PEERCRED and SO_PEERGROUPS read them; sendmsg(2) does so with each message. Works before the process of that number
exists. The child shares this process's descriptor table: what it opens is open here.
"""

import errno
import os
from collections.abc import Callable
from typing import TypeVar

import msgspec

from sls import syscalls
from sls.resources.base import Record

T = TypeVar("T")


class Identity(Record, frozen=True):
    """Who a call is made as. `pid` 0: nobody in particular."""

    pid: int
    uid: int
    gid: int
    groups: tuple[int, ...] = ()


def own_identity() -> Identity:
    """This process's."""
    return Identity(
        pid=os.getpid(), uid=os.geteuid(), gid=os.getegid(), groups=tuple(os.getgroups())
    )


def run_as(identity: Identity, work: Callable[[], object]) -> bool:
    """Run `work` (system calls only) as `identity`; False when the pid is taken, and `work` ran with another one.

    OSError with the errno of `work`'s failure.
    """
    if identity == own_identity():
        work()
        return True
    return _run_in_child(identity, work) == identity.pid


def run_apart(work: Callable[[], object]) -> None:
    """Run `work` in a child with this process's ids, so that directories and namespaces may be changed there."""
    _run_in_child(own_identity(), work, is_numbered=False)


def told_by_child(look: Callable[[], T], kind: type[T]) -> T:
    """What `look` finds, in a child that shares our descriptors and ends by itself whatever becomes of us."""
    result = os.memfd_create("sls-told", os.MFD_CLOEXEC)
    try:
        run_apart(lambda: _write(result, look()))
        data = os.pread(result, os.fstat(result).st_size, 0)
        return msgspec.msgpack.decode(data, type=kind)
    finally:
        os.close(result)


def _write(result: int, found: object) -> None:
    data = memoryview(msgspec.msgpack.encode(found))
    while data:
        data = data[os.write(result, data) :]


def _run_in_child(
    identity: Identity, work: Callable[[], object], *, is_numbered: bool = True
) -> int:
    """The number that the child had, or 0 when it was any."""
    number = identity.pid if is_numbered else 0
    try:
        child = syscalls.clone_child(number)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.EPERM, errno.EINVAL):
            raise
        number = 0
        child = syscalls.clone_child(0)
    if not child:
        _end_as(identity, work)
    code = os.waitstatus_to_exitcode(os.waitpid(child, syscalls.WALL)[1])
    if code:
        raise OSError(abs(code), os.strerror(abs(code)), "in a stand-in process")
    return number


def _end_as(identity: Identity, work: Callable[[], object]) -> None:
    code = errno.EFAULT
    try:
        syscalls.take_identity(identity.uid, identity.gid, identity.groups)
        work()
        code = 0
    except OSError as error:
        code = error.errno or errno.EIO
    finally:
        os._exit(code)
