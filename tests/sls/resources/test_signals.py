"""sigaction(2), masks, alternate stacks, queues."""

from tests.sls.conftest import Kept


def test_208_signal_actions_masks_and_queues(kept: Kept) -> None:
    kept("signals.c")


def test_action_of_each_signal(kept: Kept) -> None:
    kept("actions.c")
