"""Descriptors of namespaces."""

import pytest

from tests.sls.conftest import Kept, Refused

KINDS = ["cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"]


@pytest.mark.parametrize("kind", KINDS)
def test_namespace_file(kept: Kept, kind: str) -> None:
    outcome = kept("namespace_file.py", kind)
    assert not outcome.losses
    assert not outcome.notes


def test_x26_a_namespace_that_nobody_is_in(refused: Refused) -> None:
    assert "a namespace that no member is in" in refused("namespace_file.py", "outside")
