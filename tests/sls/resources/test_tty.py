"""Terminals: pairs inside, masters outside, controlling terminals."""

import os
import pty

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("case", ["plain", "packet", "closed"])
def test_x27_pty_pair(kept: Kept, case: str) -> None:
    outcome = kept("pty.c", case)
    assert not outcome.losses
    assert not outcome.notes


def test_terminal_whose_master_is_outside(kept: Kept) -> None:
    master, slave = pty.openpty()
    try:
        os.write(master, b"hello\n")
        assert not kept("tty_outside.py", "same", descriptors={5: slave}).notes
    finally:
        os.close(master)
        os.close(slave)
