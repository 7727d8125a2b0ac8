"""cgroups(7): membership by path; a group that is gone is told of."""

from pathlib import Path

from tests.sls.conftest import Kept


def test_member_of_a_group(kept: Kept, group: Path) -> None:
    assert not kept("cgroup.py", group).notes
