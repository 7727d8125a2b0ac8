"""setitimer(2) and timer_create(2)."""

from tests.sls.conftest import Kept


def test_interval_timers(kept: Kept) -> None:
    kept("itimers.c")
