"""null(4), zero, full(4), random(4), urandom."""

from tests.sls.conftest import Kept


def test_devices_without_state(kept: Kept) -> None:
    kept("device.py")
