"""What tests of more than one resource arrange."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sls import proc


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
