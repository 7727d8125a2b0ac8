"""Terminals: pairs inside, masters outside, controlling terminals."""

import os
import pty
import termios
import tty

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("case", ["packet", "closed", "kept"])
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


def test_terminal_that_is_gone_is_the_restorers(restored: Kept) -> None:
    """The program has it as standard input; its settings go over to the terminal that stands in."""
    old_master, old = pty.openpty()
    master, slave = pty.openpty()
    try:
        tty.setraw(old)
        os.write(master, b"hello\n")
        restored("tty_outside.py", "stand-in", descriptors={0: old}, terminal=(slave, slave, slave))
        assert not termios.tcgetattr(slave)[3] & termios.ICANON
    finally:
        for fd in (old_master, old, master, slave):
            os.close(fd)
