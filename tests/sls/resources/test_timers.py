"""setitimer(2) and timer_create(2)."""

from tests.sls.conftest import Kept


def test_x24_interval_timers(kept: Kept) -> None:
    kept("itimers.c", kept.way.value)


def test_a_periodic_timer_whose_signal_waits(kept: Kept) -> None:
    kept("itimers.c", "waiting")
