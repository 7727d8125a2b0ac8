"""cgroups(7): membership by path; a group that is gone is told of."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sls import proc
from tests.sls.conftest import Kept


@pytest.fixture
def group() -> Iterator[Path]:
    """A new control group of whatever hierarchy lets one be made."""
    for mount in proc.cgroup_mounts().values():
        path = Path(os.fsdecode(mount)) / f"sls-test-{os.getpid()}"
        try:
            path.mkdir()
        except OSError:
            continue
        try:
            (path / "cgroup.procs").read_text()
            yield path
        finally:
            path.rmdir()
        return
    pytest.skip("no control group can be made here")


def test_member_of_a_group(kept: Kept, group: Path) -> None:
    assert not kept("cgroup.py", group).notes
