"""Messages with descriptors between two processes, one of which may end in the middle of one."""

import os
import socket

import pytest

from sls.channel import Channel, Exited


@pytest.mark.parametrize("cut", [3, 9], ids=["in-the-head", "in-the-text"])
def test_a_message_that_is_cut_off_leaves_no_descriptor(cut: int) -> None:
    ours, theirs = socket.socketpair()
    with ours, open(os.devnull) as beside:
        with theirs:
            Channel[Exited](theirs, Exited).send(Exited(pid=1, status=2))
            whole = ours.recv(1000)
            socket.send_fds(theirs, [whole[:cut]], [beside.fileno()])
        before = len(os.listdir("/proc/self/fd"))
        with pytest.raises(EOFError):
            Channel[Exited](ours, Exited).receive()
        assert len(os.listdir("/proc/self/fd")) == before
