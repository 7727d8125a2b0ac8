"""A pidfd of itself, of a child, of an ended child, shared by dup and fork; CASE[0] is a pid outside, or 0."""

import os
import select
import signal
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go


def is_ended(fd: int) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(0))


ended = os.fork()
if not ended:
    os._exit(0)
ended_fd = os.pidfd_open(ended)
os.waitpid(ended, 0)
outside_fd = os.pidfd_open(int(CASE[0])) if int(CASE[0]) else -1
own = os.pidfd_open(os.getpid())
child = os.fork()
if not child:
    wait_along()
    signal.pidfd_send_signal(own, 0)
    expect("parent seen by the child", is_ended(own), False)
    signal.pause()
    sys.exit(1)
child_fd = os.pidfd_open(child)
copy = os.dup(child_fd)
os.close(child_fd)
wait_for_go()
expect("ended", is_ended(ended_fd), True)
expect("child runs", is_ended(copy), False)
if outside_fd >= 0:
    signal.pidfd_send_signal(outside_fd, 0)
signal.pidfd_send_signal(copy, signal.SIGKILL)
result = os.waitid(os.P_PIDFD, copy, os.WEXITED)
expect("child", result and (result.si_pid, result.si_status), (child, signal.SIGKILL))
expect("number of the descriptor", child_fd, os.dup(copy))
finish()
