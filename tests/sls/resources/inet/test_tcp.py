"""tcp(7): listeners with address, backlog and options; a port in use; what the old client sees."""

import errno
import select
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from sls.resources.inet.repair import SEND_QUEUE, in_repair, queued_bytes, sequence_of
from sls.resources.inet.signature import SigningKey, restore_keys
from sls.resources.socket_queue import outgoing_bytes
from tests.conftest import WaitUntil
from tests.sls.conftest import Kept, Refused
from tests.sls.driver import PROGRAMS, Way


@pytest.mark.parametrize("mode", ["plain", "reuse"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "::1", "::"], ids=["4", "any4", "6", "any6"]
)
def test_218_listener(kept: Kept, host: str, mode: str) -> None:
    kept("tcp_listener.py", host, 3, mode)


@pytest.mark.parametrize("backlog", [0, 4096])
def test_218_backlog(kept: Kept, backlog: int) -> None:
    kept("tcp_listener.py", "127.0.0.1", backlog, "plain")


@pytest.mark.parametrize("mode", ["plain", "reuse"])
def test_218_old_client_sees_a_reset(restored: Kept, tmp_path: Path, mode: str) -> None:
    """A connection that waited to be accepted ends with a reset; the listener accepts new ones after the restore."""
    paths = [PROGRAMS / "tcp_client.py", tmp_path / "address", tmp_path / "end"]
    with subprocess.Popen([sys.executable, *map(str, paths)]) as client:
        restored("tcp_listener.py", "127.0.0.1", 3, mode, "pending")
        client.wait(60)
    assert (tmp_path / "end").read_text() == "ConnectionResetError"


def test_connection_with_a_peer_outside(kept: Kept, tmp_path: Path) -> None:
    """Untouched and continued it goes on; restored it gives its unread bytes, then a reset."""
    mode = "reset" if kept.way is Way.RESTORED else "goes on"
    paths = [PROGRAMS / "tcp_client.py", tmp_path / "address", tmp_path / "end"]
    with subprocess.Popen([sys.executable, *map(str, paths)]) as client:
        outcome = kept("tcp_outside.py", mode)
        client.wait(60)
    assert (tmp_path / "end").read_text() == (
        "ConnectionResetError" if mode == "reset" else "b'bye'"
    )
    lost = [loss.detail for loss in outcome.losses if "comes back reset" in loss.detail]
    assert len(lost) == {Way.UNTOUCHED: 0, Way.CONTINUED: 2, Way.RESTORED: 1}[kept.way]


def test_connection_in_the_making(kept: Kept) -> None:
    kept("tcp_connecting.py")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["4", "6"])
def test_signed_segments(kept: Kept, host: str) -> None:
    with socket.socket() as any_socket:
        try:
            restore_keys(any_socket, [SigningKey(host="127.0.0.1", prefix_bits=32, key=b"k")])
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            pytest.skip("this kernel has no TCP_MD5SIG")
    outcome = kept("tcp_signed.py", host)
    assert not outcome.notes
    assert not outcome.losses


@pytest.mark.parametrize("case", ["bound", "free"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"], ids=["4", "6"])
def test_a_failed_connect(kept: Kept, host: str, case: str) -> None:
    outcome = kept("tcp_refused.py", host, case)
    assert not outcome.notes
    assert not outcome.losses


def test_218_port_in_use_is_named(restored: Kept, tmp_path: Path) -> None:
    """Somebody else listens there by now."""
    taken = []

    def take() -> None:
        host, port = (tmp_path / "address").read_text().split()
        taken.append(socket.create_server((host, int(port))))

    with pytest.raises(
        pytest.fail.Exception, match=r"127\.0\.0\.1:\d+: Address already in use; end"
    ):
        restored("tcp_listener.py", "127.0.0.1", 3, "plain", between=take)


@pytest.mark.parametrize("mode", ["idle", "queued", "full", "half", "waiting", "ended"])
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"], ids=["4", "6", "any6"])
def test_x23_connection_inside(kept: Kept, host: str, mode: str) -> None:
    kept("tcp_connection.py", host, mode)


@pytest.mark.parametrize("case", ["data", "both"])
def test_x26_data_before_accept(refused: Refused, case: str) -> None:
    assert "has not accepted the connection yet" in refused("unread_unaccepted.py", "tcp", case)


def test_an_end_before_accept(kept: Kept) -> None:
    assert not kept("unread_unaccepted.py", "tcp", "ended").notes


@pytest.mark.root
def test_data_before_accept_is_nowhere_to_be_seen(wait_until: WaitUntil) -> None:
    """Why it is refused: the sender has no copy any more, and the listener shows nothing but a number."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.send(b"early")
        poller = select.poll()
        poller.register(listener, select.POLLIN)
        assert poller.poll(5000)
        with pytest.raises(OSError, match="not connected"):
            listener.recv(100, socket.MSG_PEEK)
        wait_until(lambda: not outgoing_bytes(client))
        with in_repair(client.fileno()) as view:
            sequence_of(view, SEND_QUEUE)
            assert queued_bytes(view) == b""


def test_listeners_that_share_a_port(kept: Kept) -> None:
    kept("reuseport.py")


@pytest.mark.parametrize("mode", ["outline", "inline", "first", "read", "before"])
def test_urgent_data_is_refused(refused: Refused, mode: str) -> None:
    assert "urgent data (MSG_OOB) not read yet" in refused("tcp_urgent.py", mode)
