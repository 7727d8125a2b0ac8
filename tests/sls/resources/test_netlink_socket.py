"""netlink(7): ports, groups, options; an unread answer is refused by name."""

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("protocol", ["route", "uevent"])
def test_netlink(kept: Kept, protocol: str) -> None:
    kept("netlink.py", protocol)


def test_unread_answer(refused: Refused) -> None:
    assert "unread messages" in refused("netlink.py", "busy")
