"""IPC namespaces: of a process, of one thread, shared by a parent and a child; none with objects in it."""

import pytest

from tests.sls.conftest import Kept, Refused


def test_ipc_namespaces(kept: Kept) -> None:
    assert not kept("ipc_namespace.c").notes


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("shm", "shared memory"),
        ("sem", "semaphores"),
        ("msg", "message queues"),
        ("mq", "POSIX message queues"),
    ],
)
def test_x26_objects_in_it(refused: Refused, kind: str, words: str) -> None:
    assert f"an ipc namespace of its own with {words} in it" in refused("ipc_namespace.c", kind)
