"""Numbers in use: by whom, and whether they become free."""

import os
import signal
import time

import pytest

from sls import numbers, syscalls
from tests.sls.apart import apart

pytestmark = pytest.mark.root
_PR_SET_CHILD_SUBREAPER = 36


def leaderless_session() -> tuple[int, int]:
    """A session whose leader has ended, and the one process in it, a child of ours."""
    syscalls.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    receiver, sender = os.pipe()
    leader = os.fork()
    if not leader:
        os.setsid()
        member = os.fork()
        if not member:
            signal.pause()
        os.write(sender, b"%d" % member)
        os._exit(0)
    os.waitpid(leader, 0)
    return leader, int(os.read(receiver, 16))


def test_who_keeps_the_number_of_a_session_in_use_is_named() -> None:
    def check() -> None:
        number, member = leaderless_session()
        assert numbers.name(number).startswith(f"the session or process group of pid {member}, ")
        assert not numbers.is_worth_waiting_for(number, time.monotonic() - 1)
        os.kill(member, signal.SIGKILL)
        os.waitpid(member, 0)

    apart(check)


def test_one_that_was_killed_is_waited_for_until_its_number_is_free() -> None:
    """It is a child of who restores, for its parent ended before it: nobody else would wait for it."""

    def check() -> None:
        number, member = leaderless_session()
        os.kill(member, signal.SIGKILL)
        os.waitid(os.P_PID, member, os.WEXITED | os.WNOWAIT)
        assert numbers.is_worth_waiting_for(number, time.monotonic() - 1)
        assert numbers.name(number) == "another task"
        with pytest.raises(ChildProcessError):
            os.waitpid(member, 0)

    apart(check)
