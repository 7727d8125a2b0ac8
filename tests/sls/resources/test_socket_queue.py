"""Queues are looked at without a trace, also where the program peeks itself."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("kind", ["STREAM", "DGRAM", "SEQPACKET", "udp", "tcp"])
def test_peek_offset(kept: Kept, kind: str) -> None:
    kept("peek_offset.py", kind)


@pytest.mark.parametrize("kind", ["DGRAM", "SEQPACKET", "udp"])
def test_empty_messages(kept: Kept, kind: str) -> None:
    kept("empty_message.py", kind)
