"""Two things at the same time."""

import os
import threading

import pytest

from sls.helper import run_both


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor does one after the other")
def test_both_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    run_both(meeting.wait, meeting.wait)


def test_what_goes_wrong_in_either_is_raised_when_both_have_ended() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        run_both(fail, lambda: done.append(1))
    with pytest.raises(ConnectionError):
        run_both(lambda: done.append(2), fail)
    assert sorted(done) == [1, 2]
