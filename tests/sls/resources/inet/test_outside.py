"""TCP with the other end outside: it goes on where that has not noticed, and comes back reset where it has."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sls.netfilter import Addresses, QuietTable
from sls.resources.inet.endpoint import TcpEndpoint
from sls.resources.inet.outside import judge
from sls.resources.inet.packets import Answer
from tests.sls.conftest import Kept
from tests.sls.driver import PROGRAMS, Way


@contextmanager
def client(directory: Path, mode: str) -> Iterator[None]:
    command = [sys.executable, str(PROGRAMS / "tcp_peer.py"), str(directory), mode]
    environment = os.environ | {"PYTHONPATH": str(PROGRAMS.parent.parent)}
    with subprocess.Popen(command, env=environment) as peer:
        try:
            yield
            assert peer.wait(60) == 0
        finally:
            peer.kill()


def gap(directory: Path) -> None:
    """Have the client do what it does while the program is gone."""
    number = sum(1 for _ in directory.glob("gap?")) + 1
    (directory / f"gap{number}").touch()
    deadline = time.monotonic() + 40
    while not (directory / f"gap{number}.done").exists() and time.monotonic() < deadline:
        time.sleep(0.002)


def ends(directory: Path) -> tuple[list[int], list[int]]:
    """What the server, then what the client has written and read."""
    texts = [(directory / f"{name}.end").read_text() for name in ("server", "peer")]
    server, peer = ([int(word) for word in text.split()] for text in texts)
    return server, peer


MODES = ("idle", "queued", "full", "half", "ended", "talk")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::"], ids=["4", "6", "any6"])
def test_x23_goes_on(parted: Kept, tmp_path: Path, host: str, mode: str) -> None:
    """Every byte each way once, in order; the client notices nothing."""
    with client(tmp_path, mode):
        outcome = parted("tcp_rejoin.py", host, mode, between=lambda: gap(tmp_path))
    server, peer = ends(tmp_path)
    assert server == peer[::-1]
    assert (outcome.losses, outcome.notes) == ((), ())


@pytest.mark.parametrize(
    "kept",
    [
        pytest.param(way, id=way.value, marks=pytest.mark.root)
        for way in (Way.UNTOUCHED, Way.CONTINUED)
    ],
    indirect=True,
)
@pytest.mark.parametrize("mode", MODES)
def test_capture_does_not_disturb(kept: Kept, tmp_path: Path, mode: str) -> None:
    with client(tmp_path, mode):
        kept("tcp_rejoin.py", "127.0.0.1", mode)
    server, peer = ends(tmp_path)
    assert server == peer[::-1]


def test_peer_that_is_gone(parted: Kept, tmp_path: Path) -> None:
    """It has ended the connection while the program was away: its unread bytes, then a reset."""
    with client(tmp_path, "reset"):
        outcome = parted("tcp_reset.py", "127.0.0.1", between=lambda: gap(tmp_path))
    assert [note.detail.split(": ")[1] for note in outcome.notes] == [
        "the peer has ended the connection"
    ]


def test_peer_that_has_seen_the_end(restored: Kept, tmp_path: Path) -> None:
    """Killed without a parting: the client saw a reset, for bytes were unread."""
    with client(tmp_path, "queued"):
        restored("tcp_reset.py", "127.0.0.1")
    assert (tmp_path / "peer.end").read_text() == "ConnectionResetError"


def test_filter_ends_with_its_maker() -> None:
    """However that ends, the network is not left filtered."""
    pid = os.fork()
    if not pid:
        QuietTable().add([Addresses(bytes(4), 1, bytes(4), 2)])
        os.kill(os.getpid(), 9)
    os.waitpid(pid, 0)
    QuietTable().close()


ENDPOINT = TcpEndpoint(
    unacknowledged=0xFFFFFFFE, written=b"12345", sent_bytes=2, awaited=0xFFFFFFFF, unread_bytes=0,
    has_sent_fin=False, has_received_fin=True, segment_bytes=1460, scales=None, has_selective=False,
    has_timestamps=False, timestamp=0, send_window=100, largest_send_window=100, receive_window=100,
)  # fmt: skip


@pytest.mark.parametrize(
    ("sequence", "acknowledged", "last_word", "reason", "confirmed"),
    [
        (0, 0xFFFFFFFE, False, "", 0),
        (0, 3, False, "", 5),
        (0, 4, False, "has received", 0),
        (0, 0xFFFFFFFD, True, "has received", 0),
        (1, 1, True, "", 3),
        (1, 1, False, "has sent", 0),
        (0xFFFFFFFF, 1, True, "has sent", 0),
    ],
)
def test_judgement(
    sequence: int, acknowledged: int, last_word: bool, reason: str, confirmed: int
) -> None:
    """Numbers wrap, and the FIN that came has one."""
    answer = Answer(sequence, acknowledged, is_reset=False)
    verdict = judge(ENDPOINT, answer, is_last_word=last_word)
    assert (reason in verdict.reason, bool(verdict.reason), verdict.confirmed_bytes) == (
        True, bool(reason), confirmed,
    )  # fmt: skip


@pytest.mark.parametrize("last_word", [True, False])
def test_no_answer(last_word: bool) -> None:
    """Who was kept quiet all the time may be joined unasked: it answers the connection itself, or does not."""
    assert bool(judge(ENDPOINT, None, is_last_word=last_word).reason) is not last_word
