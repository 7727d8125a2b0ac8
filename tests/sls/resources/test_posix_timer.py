"""timer_create(2)."""

from tests.sls.conftest import Kept


def test_posix_timers_of_every_notification(kept: Kept) -> None:
    kept("posix_timers.c")
