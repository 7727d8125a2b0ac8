"""unix(7): pairs, listeners, names, queues, credentials, descriptors in flight; peers outside."""

import socket
from pathlib import Path

import pytest

from tests.sls.conftest import Kept, Refused
from tests.sls.driver import Way

KINDS = ["STREAM", "DGRAM", "SEQPACKET"]


@pytest.mark.parametrize("mode", ["open", "shut", "closed"])
@pytest.mark.parametrize("kind", KINDS)
def test_pair(kept: Kept, kind: str, mode: str) -> None:
    kept("unix_pair.py", kind, 3, 1000, mode)


@pytest.mark.parametrize(
    ("count", "size"), [(0, 1), (1, 1), (8, 30000)], ids=["none", "one", "large"]
)
@pytest.mark.parametrize("kind", KINDS)
def test_pair_boundaries(kept: Kept, kind: str, count: int, size: int) -> None:
    kept("unix_pair.py", kind, count, size, "open")


@pytest.mark.parametrize("where", ["path", "relative", "abstract", "unlinked"])
@pytest.mark.parametrize("kind", ["STREAM", "SEQPACKET"])
def test_listener(kept: Kept, kind: str, where: str) -> None:
    kept("unix_listener.py", kind, where)


@pytest.mark.parametrize("where", ["path", "relative", "unlinked"])
def test_listener_in_a_mount_namespace_of_its_own(kept: Kept, where: str) -> None:
    kept("unix_listener.py", "STREAM", where, "apart")


@pytest.mark.parametrize("where", ["path", "abstract"])
def test_datagrams(kept: Kept, where: str) -> None:
    kept("unix_datagram.py", where)


def test_descriptors_in_flight(kept: Kept) -> None:
    kept("unix_in_flight.py")


@pytest.mark.parametrize("kind", KINDS)
def test_peer_outside(kept: Kept, kind: str) -> None:
    inside, outside = socket.socketpair(socket.AF_UNIX, socket.SocketKind[f"SOCK_{kind}"])
    with inside, outside:
        outside.send(b"hello")
        mode = "closed" if kept.way is Way.RESTORED else "open"
        outcome = kept("unix_outside.py", kind, mode, descriptors={5: inside.fileno()})
        lost = [loss for loss in outcome.losses if "peer is outside" in loss.detail]
        assert bool(lost) == (kept.way is not Way.UNTOUCHED)


def test_datagrams_to_a_name_outside(kept: Kept, tmp_path: Path) -> None:
    """As to a system logger: connected by name, and found again."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as logger:
        logger.bind(str(tmp_path / "outside"))
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inside:
            kept("unix_outside.py", "DGRAM", "named", descriptors={5: inside.fileno()})
        assert logger.recv(100, socket.MSG_DONTWAIT) == b"to outside"


def test_name_in_use_is_named(restored: Kept, tmp_path: Path) -> None:
    """Somebody else listens at the path by now."""
    taken = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)

    def take() -> None:
        (tmp_path / "listener").unlink()
        taken.bind(str(tmp_path / "listener"))
        taken.listen()

    with (
        taken,
        pytest.raises(pytest.fail.Exception, match=r"listener: Address already in use; end"),
    ):
        restored("unix_listener.py", "STREAM", "path", between=take)


def test_x26_data_before_accept(refused: Refused) -> None:
    assert "not accepted yet" in refused("unread_unaccepted.py", "unix")


def test_urgent_data_is_refused(refused: Refused) -> None:
    assert "urgent data (MSG_OOB) not read yet" in refused("unix_urgent.py")
