"""Who holds others still runs first, and only then."""

import os

import pytest

from sls.priority import Hurry
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
