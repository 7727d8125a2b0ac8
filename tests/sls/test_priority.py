"""Who holds others still runs first, and only then; who serves files lets others go first."""

import os
import platform
from concurrent.futures import ThreadPoolExecutor

import pytest

from sls import syscalls
from sls.priority import Hurry, give_way
from tests.sls.apart import apart


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


@pytest.mark.root
def test_it_runs_first_within_the_block_alone() -> None:
    def check() -> None:
        with Hurry():
            assert policy() == os.SCHED_RR
            child = os.fork()
            if not child:
                os._exit(policy())
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == os.SCHED_OTHER
        assert policy() == os.SCHED_OTHER
        with pytest.raises(ConnectionError), Hurry():
            raise ConnectionError
        assert policy() == os.SCHED_OTHER

    apart(check)


@pytest.mark.root
def test_it_goes_on_without_the_right_to() -> None:
    def check() -> None:
        os.setresuid(65534, 65534, 65534)
        with Hurry():
            assert policy() == os.SCHED_OTHER
        assert policy() == os.SCHED_OTHER

    apart(check)


def slice_ns() -> int:
    """sched_runtime of struct sched_attr: an ordinary thread's slice, since Linux 6.12."""
    return int.from_bytes(syscalls.scheduler(0)[24:32], "little")


def test_who_gives_way_has_a_longer_slice_alone() -> None:
    if tuple(map(int, platform.release().split(".")[:2])) < (6, 12):
        pytest.skip("ordinary threads have no slices of their own before Linux 6.12")

    def check() -> None:
        os.nice(3)
        usual = slice_ns()
        give_way()
        assert slice_ns() > usual
        assert os.getpriority(os.PRIO_PROCESS, 0) == 3
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(slice_ns).result() == usual

    apart(check)


def test_who_was_started_with_another_policy_keeps_it() -> None:
    def check() -> None:
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
        give_way()
        assert policy() == os.SCHED_BATCH

    apart(check)
