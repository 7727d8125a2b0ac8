"""NUMA policies of threads and of mappings, on however many nodes the machine has."""

from pathlib import Path

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("own", ["default", "bind"])
def test_numa_policies(kept: Kept, own: str) -> None:
    if not Path("/proc/self/numa_maps").exists():
        pytest.skip("this kernel has no NUMA policies")
    assert not kept("numa.c", own).notes
