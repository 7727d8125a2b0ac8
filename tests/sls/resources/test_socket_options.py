"""Every option that getsockopt(2) reads and setsockopt(2) takes comes back."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("kind", ["tcp", "tcp6", "udp", "udp6", "unix"])
def test_options(kept: Kept, kind: str) -> None:
    assert not kept("socket_options.py", kind).notes
