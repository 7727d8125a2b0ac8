"""System V message queues: messages, sizes, owners, last users."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sls.conftest import Kept
from tests.sls.sysv import remove_noted


@pytest.fixture(autouse=True)
def none_left(tmp_path: Path) -> Iterator[None]:
    yield
    remove_noted("msg", tmp_path)


def test_sysv_messages(kept: Kept) -> None:
    assert not kept("sysv_message.c").notes


def test_sysv_messages_that_are_gone(restored: Kept, tmp_path: Path) -> None:
    assert not restored("sysv_message.c", between=lambda: remove_noted("msg", tmp_path)).notes
