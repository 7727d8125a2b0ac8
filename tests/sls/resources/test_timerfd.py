"""timerfd_create(2): remaining time, periods, expirations that wait, absolute instants."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize(
    "mode",
    [
        "disarmed",
        "far",
        "near",
        "expired",
        "period",
        "far-absolute",
        "near-wall-absolute-cancel",
        "period-wall-absolute",
    ],
)
def test_219_timerfd(kept: Kept, mode: str) -> None:
    assert not kept("timerfd.c", mode).notes
