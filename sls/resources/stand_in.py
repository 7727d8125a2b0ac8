"""A short-lived child with a chosen number and ids, for the few calls whose caller the kernel remembers for ever.

socketpair(2), listen(2) and connect(2) of unix(7) write pid, uid, gid and groups of the caller into the socket, where
SO_PEERCRED and SO_PEERGROUPS read them; sendmsg(2) does so with each message. Works before the process of that number
exists.
"""

import os
from collections.abc import Callable

from sls import syscalls
from sls.child import run_as_number
from sls.resources.base import Record


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


def _run_in_child(identity: Identity, work: Callable[[], object]) -> int:
    """The number that the child had, or 0 when it was any."""

    def work_as() -> None:
        syscalls.take_identity(identity.uid, identity.gid, identity.groups)
        work()

    return run_as_number(work_as, identity.pid)
