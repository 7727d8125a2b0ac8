"""An eventfd of CASE[0] as a counter or a semaphore (CASE[1]), shared by dup and by fork."""

import os
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

count, semaphore = int(CASE[0]), CASE[1] == "semaphore"
fd = os.eventfd(count & 0xFFFFFFFF, os.EFD_NONBLOCK | (os.EFD_SEMAPHORE if semaphore else 0))
if count >> 32:  # initval of eventfd(2) has 32 bits
    os.eventfd_write(fd, count & ~0xFFFFFFFF)
copy = os.dup(fd)
os.close(fd)


def read() -> int | None:
    try:
        return os.eventfd_read(copy)
    except BlockingIOError:
        return None


child = os.fork()
if not child:
    wait_along()
    expect("count seen by the child", read(), (min(count, 1) if semaphore else count) or None)
    sys.exit(0)
wait_for_go()
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
expect("what the child left", read(), 1 if semaphore and count > 1 else None)
expect("the lowest free number", os.dup(copy), fd)
finish()
