"""eventfd(2): the whole 64-bit counter and the semaphore flag."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("mode", ["counter", "semaphore"])
@pytest.mark.parametrize("count", [0, 1, 2**32, 2**64 - 2], ids=["0", "1", "2^32", "2^64-2"])
def test_219_eventfd(kept: Kept, count: int, mode: str) -> None:
    kept("eventfd.py", count, mode)
