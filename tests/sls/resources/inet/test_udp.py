"""udp(7): bound and connected sockets with queued datagrams and their senders."""

import pytest

from tests.sls.conftest import Kept, Refused
from tests.sls.driver import Way


@pytest.mark.parametrize("mode", ["bound", "connected"])
@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0.0.0.0", "::1", "::"], ids=["4", "any4", "6", "any6"]
)
def test_217_queue(kept: Kept, host: str, mode: str) -> None:
    kept("udp.py", host, 100, 3, mode)


@pytest.mark.parametrize(
    ("size", "count"),
    [(0, 2), (1, 0), (1, 100), (65507, 3)],
    ids=["empty", "none", "many", "largest"],
)
def test_217_boundaries(kept: Kept, size: int, count: int) -> None:
    kept("udp.py", "127.0.0.1", size, count, "bound")


@pytest.mark.parametrize("mode", ["any", "source"])
@pytest.mark.parametrize("version", ["4", "6"])
def test_multicast_membership(kept: Kept, version: str, mode: str) -> None:
    assert not kept("multicast.py", version, mode).notes


def test_pending_error(kept: Kept) -> None:
    """It is not taken away by a capture; after a restore it is gone, which the report says."""
    is_restored = kept.way is Way.RESTORED
    outcome = kept("udp_refused.py", "none" if is_restored else "ECONNREFUSED")
    assert any("pending error" in loss.detail for loss in outcome.losses) == (
        kept.way is not Way.UNTOUCHED
    )


def test_a_datagram_that_is_not_finished_is_refused(refused: Refused) -> None:
    assert "(UDP_CORK) cannot be read; try again" in refused("udp_corked.py")
