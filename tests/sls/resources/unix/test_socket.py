"""unix(7): pairs, listeners, names, queues, credentials, descriptors in flight; peers outside."""

import pytest

from tests.sls.conftest import Kept

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


@pytest.mark.parametrize("where", ["path", "abstract"])
def test_datagrams(kept: Kept, where: str) -> None:
    kept("unix_datagram.py", where)


def test_descriptors_in_flight(kept: Kept) -> None:
    kept("unix_in_flight.py")
