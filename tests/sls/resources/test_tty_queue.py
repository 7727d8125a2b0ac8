"""Bytes that wait in a pty whose ends are inside: whole lines, ends of file, an incomplete line, output."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("case", ["lines", "raw", "full", "echo"])
def test_bytes_that_wait(kept: Kept, case: str) -> None:
    assert not kept("pty_queue.c", case).losses


def test_bytes_that_wait_in_packet_mode_are_told(restored: Kept) -> None:
    losses = restored("pty_queue.c", "packet").losses
    assert "bytes of output, 17 of input not read yet" in losses[0].detail
