"""IPC namespaces: of a process, of one thread, shared by a parent and a child; with objects of every kind in them."""

import pytest

from tests.sls.conftest import Kept, Refused


def test_ipc_namespaces(kept: Kept) -> None:
    assert not kept("ipc_namespace.c").notes


@pytest.mark.parametrize(
    "program",
    [
        ("sysv_shm.c",),
        ("sysv_semaphore.c", "mine"),
        ("sysv_semaphore.c", "unused"),
        ("sysv_message.c",),
        ("message_queue.c", "named"),
        ("message_queue.c", "removed"),
    ],
    ids=" ".join,
)
def test_objects_in_one(kept: Kept, program: tuple[str, ...]) -> None:
    outcome = kept(*program, "apart")
    assert not outcome.notes
    assert not outcome.losses


@pytest.mark.parametrize("case", ["usual", "lowered"])
def test_objects_of_the_same_names_in_two(kept: Kept, case: str) -> None:
    outcome = kept("ipc_objects.c", case)
    assert not outcome.notes
    assert not outcome.losses


def test_a_queue_where_only_a_thread_is(kept: Kept) -> None:
    assert not kept("ipc_namespace.c", "mq").notes


@pytest.mark.parametrize(
    ("kind", "words"),
    [("shm", "shared memory"), ("sem", "semaphores"), ("msg", "message queues")],
)
def test_x26_objects_where_only_a_thread_is(refused: Refused, kind: str, words: str) -> None:
    assert f"with {words} in it that no main thread is in" in refused("ipc_namespace.c", kind)


def test_x26_a_notification_is_refused(refused: Refused) -> None:
    assert "a notification (mq_notify(3)) cannot be read back" in refused(
        "message_queue.c", "notified", "apart"
    )


def test_x26_unattached_memory_that_is_destroyed_with_its_maker(refused: Refused) -> None:
    assert "where shm_rmid_forced is set" in refused("sysv_shm.c", "forced", "apart")
