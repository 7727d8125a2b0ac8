"""More descriptors of processes than one message carries, held in a user namespace of its own by a child as well."""

import ctypes
import os
import select

from tests.programs.protocol import expect, finish, wait_along, wait_for_go

COUNT = 450
NEW_USER = 0x10000000


def pids(descriptors: list[int]) -> set[bytes]:
    """Of the processes that they are of, as the descriptors tell."""
    found = set()
    for fd in descriptors:
        with open(f"/proc/self/fdinfo/{fd}", "rb") as file:
            found.add(next(line for line in file if line.startswith(b"Pid:")))
    return found


expect("unshare", ctypes.CDLL(None).unshare(NEW_USER), 0)
held = [os.pidfd_open(os.getpid()) for _ in range(COUNT)]
child = os.fork()
if not child:
    wait_along()
    expect("those of the parent", pids(held), {b"Pid:\t%d\n" % os.getppid()})
    os._exit(0)
wait_for_go()
expect("its own", pids(held), {b"Pid:\t%d\n" % os.getpid()})
expect("not ended", select.select(held, [], [], 0)[0], [])
expect("child", os.waitpid(child, 0)[1], 0)
finish()
