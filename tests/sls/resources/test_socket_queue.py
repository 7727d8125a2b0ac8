"""Queues are looked at without a trace, also where the program peeks itself."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM", "SEQPACKET", "udp", "tcp"])
def test_peek_offset(kept: Kept, kind: str) -> None:
    kept("peek_offset.py", kind)
