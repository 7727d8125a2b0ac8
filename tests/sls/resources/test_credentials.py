"""Who a process is and what it may: ids, groups, capabilities, and what a change of them resets."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("case", ["user", "nobody", "capabilities", "threads"])
def test_x25_credentials(kept: Kept, case: str) -> None:
    assert not kept("identity.c", case).notes
