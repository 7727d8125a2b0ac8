"""sigaction(2), masks, alternate stacks, queues."""

from tests.sls.conftest import Kept, Refused


def test_208_signal_actions_masks_and_queues(kept: Kept) -> None:
    kept("signals.c")


def test_action_of_each_signal(kept: Kept) -> None:
    kept("actions.c")


def test_many_signals_that_wait(kept: Kept) -> None:
    kept("many_signals.c", 2000)


def test_x26_very_many_signals_that_wait(refused: Refused) -> None:
    assert "more than 5000 signals wait" in refused("many_signals.c", 6000)


def test_no_signal_may_be_queued(kept: Kept) -> None:
    """Those of the old kind come nevertheless, also those by which a restore stops its processes."""
    kept("no_signal_queue.py")
