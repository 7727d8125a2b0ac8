"""Mount namespaces: bind mounts, tmpfs, roots of their own, propagation, mounts that hide others."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize(
    "case", ["bind", "tmpfs", "pivot", "propagation", "stacked", "shown", "itself", "two"]
)
def test_mounts_of_its_own(kept: Kept, case: str) -> None:
    assert not kept("mount_namespace.py", case).notes


@pytest.mark.parametrize("case", ["overlay", "overlay_outside", "overlay_root", "overlay_of_user"])
def test_overlays(kept: Kept, case: str) -> None:
    assert not kept("mount_namespace.py", case).notes


@pytest.mark.parametrize("case", ["overlay_gone", "overlay_other"])
def test_an_overlay_of_layers_that_are_gone(refused: Refused, case: str) -> None:
    words = refused("mount_namespace.py", case)
    assert "in which overlay on" in words
    assert "has layers that are not to be seen any more" in words


def test_an_overlay_of_relative_paths(refused: Refused) -> None:
    words = refused("mount_namespace.py", "overlay_relative")
    assert "was given layers by relative paths (first, second); give it whole ones" in words


def test_x26_a_filesystem_that_is_nowhere_else(refused: Refused) -> None:
    words = refused("mount_namespace.py", "ramfs")
    assert "a mount namespace of its own, in which ramfs on" in words
    assert "mount it outside as well" in words


@pytest.mark.parametrize(("case", "name"), [("bind", "source"), ("overlay_outside", "first")])
def test_what_was_bound_is_gone(conflict: Kept, tmp_path: Path, case: str, name: str) -> None:
    source, aside = tmp_path / "place" / name, tmp_path / "aside"

    def put_aside() -> Callable[[], object]:
        time_ns = source.parent.stat().st_mtime_ns
        source.rename(aside)

        def put_back() -> None:
            aside.rename(source)
            os.utime(source.parent, ns=(time_ns, time_ns))

        return put_back

    words = conflict("mount_namespace.py", case, between=put_aside).refusal
    assert "a mount namespace cannot be made again" in words
    assert f"/{tmp_path.name}/place/{name}: No such file or directory" in words
