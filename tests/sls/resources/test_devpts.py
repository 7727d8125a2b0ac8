"""Terminals of other instances of devpts than the machine's."""

import shutil

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("case", ["unshare", "bwrap", "elsewhere"])
def test_terminals_of_a_devpts_of_its_own(kept: Kept, case: str) -> None:
    if case == "bwrap" and not shutil.which("bwrap"):
        pytest.skip("bwrap is not installed")
    outcome = kept("devpts.py", case)
    assert not outcome.losses
    assert not outcome.notes


def test_x26_a_master_that_is_outside(refused: Refused) -> None:
    assert "of another devpts than ours, whose master is outside" in refused("devpts.py", "outside")
