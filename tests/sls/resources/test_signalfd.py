"""signalfd(2): the mask, and signals that wait with their words."""

from tests.sls.conftest import Kept


def test_219_signalfd(kept: Kept) -> None:
    kept("signalfd.c")
