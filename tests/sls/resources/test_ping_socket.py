"""Ping sockets: identifiers, addresses, options; echo goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sls.conftest import Kept

RANGE = Path("/proc/sys/net/ipv4/ping_group_range")


@pytest.fixture(autouse=True)
def allowed() -> Iterator[None]:
    """Every group may ping meanwhile."""
    before = RANGE.read_text()
    RANGE.write_text("0 2147483647")
    yield
    RANGE.write_text(before)


@pytest.mark.parametrize("state", ["unused", "used", "bound", "connected"])
@pytest.mark.parametrize("version", ["4", "6"])
def test_ping_socket(kept: Kept, version: str, state: str) -> None:
    kept("ping_socket.py", version, state)
