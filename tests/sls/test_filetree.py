"""The gate between a worker that holds members still and the file tree."""

import socket
from collections.abc import Iterator

import pytest

from slos.errors import StoreFullError
from sls.filetree import SERIAL, FrozenTree, Gate


class Tree:
    """Freezes as it is told to."""

    is_used = True

    def __init__(self, error: Exception) -> None:
        self._error = error

    def prepare(self) -> None:
        return

    def freeze(self) -> FrozenTree:
        raise self._error

    def roll_back(self, epoch: int) -> None:
        return


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair(type=socket.SOCK_SEQPACKET)
    theirs.settimeout(60)
    with ours, theirs:
        yield ours, theirs


def test_a_tree_that_cannot_be_frozen_holds_nobody_up(
    ends: tuple[socket.socket, socket.socket],
) -> None:
    gate = Gate(Tree(StoreFullError("full")), ends[0])
    for serial in range(3):
        ends[1].send(SERIAL.pack(serial))
        assert ends[1].recv(1)
    ends[1].close()
    gate.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_of_the_tree_ends_the_gate(ends: tuple[socket.socket, socket.socket]) -> None:
    """Who waits for it is told, and not left waiting."""
    gate = Gate(Tree(RuntimeError("a defect")), ends[0])
    ends[1].send(SERIAL.pack(1))
    assert ends[1].recv(1) == b""
    gate.close()
