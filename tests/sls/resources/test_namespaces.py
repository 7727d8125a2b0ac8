"""Pid namespaces come back with their first process; others of its own are refused by name, of a thread too."""

import pytest

from tests.sls.conftest import Kept, Refused

KINDS = ["time_for_children"]


@pytest.mark.parametrize("kind", KINDS)
def test_x26_a_namespace_of_its_own(refused: Refused, kind: str) -> None:
    assert f"namespaces: a {kind} namespace of its own" in refused("namespace.c", kind)


@pytest.mark.parametrize("kind", ["mnt"])
def test_x26_a_namespace_of_a_thread(refused: Refused, kind: str) -> None:
    """Directories of its own come with it, and are named first."""
    words = refused("namespace.c", kind, "thread")
    assert "directories: thread" in words


@pytest.mark.parametrize("case", ["plain", "killed", "cloned", "proc", "all", "nested"])
def test_a_pid_namespace_with_its_first_process(kept: Kept, case: str) -> None:
    outcome = kept("pid_namespace.py", case)
    assert not outcome.notes
    assert {loss.detail for loss in outcome.losses} <= {
        "SO_PEERCRED and SCM_CREDENTIALS tell 0 for pids from before, in its pid namespace"
    }


@pytest.mark.parametrize("case", [(), ("early",), ("orphan",), ("early", "orphan")])
def test_a_pid_namespace_that_others_entered(kept: Kept, case: tuple[str, ...]) -> None:
    outcome = kept("pid_namespace.py", "entered", *case)
    assert not outcome.notes
    assert not outcome.losses


def test_a_pid_namespace_of_children_to_come(kept: Kept) -> None:
    outcome = kept("pid_namespace.py", "to_come")
    assert not outcome.notes
    assert not outcome.losses
