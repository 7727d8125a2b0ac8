"""Mount namespaces: bind mounts, tmpfs, roots of their own, propagation, mounts that hide others."""

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("case", ["bind", "tmpfs", "pivot", "propagation", "stacked", "itself"])
def test_mounts_of_its_own(kept: Kept, case: str) -> None:
    assert not kept("mount_namespace.py", case).notes


def test_x26_a_filesystem_that_is_nowhere_else(refused: Refused) -> None:
    words = refused("mount_namespace.py", "overlay")
    assert "a mount namespace of its own, in which overlay on" in words
    assert "mount it outside as well" in words
