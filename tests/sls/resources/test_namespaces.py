"""Namespaces of its own are refused by name, those of a thread too."""

import pytest

from tests.sls.conftest import Refused

KINDS = ["user", "cgroup", "pid_for_children", "time_for_children"]


@pytest.mark.parametrize("kind", KINDS)
def test_x26_a_namespace_of_its_own(refused: Refused, kind: str) -> None:
    assert f"namespaces: a {kind} namespace of its own" in refused("namespace.c", kind)


@pytest.mark.parametrize("kind", ["mnt"])
def test_x26_a_namespace_of_a_thread(refused: Refused, kind: str) -> None:
    """Directories of its own come with it, and are named first."""
    words = refused("namespace.c", kind, "thread")
    assert "directories: thread" in words
