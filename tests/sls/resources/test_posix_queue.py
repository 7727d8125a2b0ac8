"""POSIX message queues: messages in order, sizes, owners, removed ones; a notification is refused."""

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("case", ["named", "removed"])
def test_posix_queue(kept: Kept, case: str) -> None:
    assert not kept("message_queue.c", case).notes


def test_x26_a_notification_is_refused(refused: Refused) -> None:
    assert "a notification (mq_notify(3)) cannot be read back" in refused(
        "message_queue.c", "notified"
    )
