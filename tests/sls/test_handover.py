"""Descriptors that are handed to restored processes."""

from tests.sls.conftest import Kept


def test_more_than_one_message_carries(kept: Kept) -> None:
    outcome = kept("many_pidfds.py")
    assert not outcome.losses
    assert not outcome.notes
