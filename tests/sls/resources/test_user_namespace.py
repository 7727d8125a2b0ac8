"""User namespaces: ids, rights, threads; one within another; namespaces that belong to one; of root and of a user."""

import pytest

from tests.sls.conftest import Kept, Refused
from tests.sls.driver import Way

ROOT = ["--user", "--map-root-user"]


@pytest.mark.parametrize(
    "options",
    [
        ["--user"],
        ROOT,
        [*ROOT, "user"],
        [*ROOT, "--mount"],
        [*ROOT, "nested", "user"],
        [*ROOT, "--uts", "--ipc", "--net", "user"],
        [*ROOT, "--ipc", "user", "objects"],
        [*ROOT, "--ipc", "--pid", "--fork", "--mount-proc", "--mount", "objects"],
        [*ROOT, "--pid", "--fork", "--mount-proc", "--mount"],
        [*ROOT, "--pid", "--fork", "--mount-proc", "--mount", "--uts", "user"],
    ],
    ids=" ".join,
)
def test_user_namespaces(kept: Kept, options: list[str]) -> None:
    outcome = kept("user_namespace.py", *options)
    assert not outcome.notes
    told = {one.detail for one in outcome.losses if one.resource == "shared memory"}
    is_told = kept.way is not Way.UNTOUCHED and {"--pid", "objects"} <= {*options}
    assert told == ({"its users' numbers show as 0 in the pid namespace"} if is_told else set())


def test_x26_pid_namespaces_within_one_another(refused: Refused) -> None:
    options = [*ROOT, "--pid", "--fork", "--mount-proc", "--mount", "nested"]
    words = refused("user_namespace.py", *options)
    assert "a pid namespace of a user namespace within another pid namespace" in words
