"""packet(7) sockets: protocol, device, options, filter, memberships, fanout; rings are refused."""

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("case", ["bound", "everywhere", "fresh"])
def test_packet_socket(kept: Kept, case: str) -> None:
    assert not kept("packet_socket.py", case).losses


def test_unread_frames_are_told(restored: Kept) -> None:
    losses = restored("packet_socket.py", "unread").losses
    assert "frames that were not read yet are lost" in losses[0].detail


def test_x26_a_ring_is_refused(refused: Refused) -> None:
    assert "ring in shared memory" in refused("packet_socket.py", "ring")
