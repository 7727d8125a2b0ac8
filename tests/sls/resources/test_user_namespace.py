"""User namespaces: ids, rights, threads; one within another; namespaces that belong to one; of root and of a user."""

import pytest

from tests.sls.conftest import Kept, Refused

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
        [*ROOT, "--pid", "--fork", "--mount-proc", "--mount"],
        [*ROOT, "--pid", "--fork", "--mount-proc", "--mount", "--uts", "user"],
    ],
    ids=" ".join,
)
def test_user_namespaces(kept: Kept, options: list[str]) -> None:
    assert not kept("user_namespace.py", *options).notes


def test_x26_pid_namespaces_within_one_another(refused: Refused) -> None:
    options = [*ROOT, "--pid", "--fork", "--mount-proc", "--mount", "nested"]
    words = refused("user_namespace.py", *options)
    assert "a pid namespace of a user namespace within another pid namespace" in words
