"""epoll(7) over every kind of event object; nothing is lost, nothing is told twice."""

from tests.sls.conftest import Kept


def test_219_epoll_over_eventfd_timerfd_signalfd_inotify(kept: Kept) -> None:
    outcome = kept("epoll.c")
    assert not outcome.losses
    assert not outcome.notes
