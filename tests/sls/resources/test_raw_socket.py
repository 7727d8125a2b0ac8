"""raw(7): addresses, options and the filter of ICMP types."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("version", ["4", "6"])
def test_raw(kept: Kept, version: str) -> None:
    kept("raw_socket.py", version)
