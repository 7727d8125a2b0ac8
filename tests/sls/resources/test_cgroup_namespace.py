"""Cgroup namespaces: the group that is seen as the root; a process in a group below it."""

from pathlib import Path

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("where", ["root", "below"])
def test_cgroup_namespace(kept: Kept, group: Path, where: str) -> None:
    assert not kept("cgroup_namespace.py", group, where).notes
