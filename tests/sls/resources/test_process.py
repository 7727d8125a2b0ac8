"""Process trees, groups and sessions, and what a process has beside memory and files."""

from tests.sls.conftest import Kept


def test_211_five_children_with_a_pipe_between_each_pair(kept: Kept) -> None:
    kept("tree.c")


def test_220_two_process_groups(kept: Kept) -> None:
    kept("groups.c")
