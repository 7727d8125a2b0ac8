"""pidfd_open(2): of processes inside, outside and ended."""

import os

from tests.sls.conftest import Kept


def test_pidfd(kept: Kept) -> None:
    assert not kept("pidfd.py", 0).notes


def test_pidfd_of_a_process_outside(kept: Kept) -> None:
    assert not kept("pidfd.py", os.getpid()).notes
