"""io_uring(7): a ring that is idle keeps its counters, its memory and its place; one that is not is refused."""

import pytest

from tests.sls.conftest import Kept, Refused


@pytest.mark.parametrize("form", ["indices", "none"])
@pytest.mark.parametrize(
    ("entries", "before", "unread"),
    [
        (256, 0, 0),
        (1, 1, 0),
        (64, 1, 0),
        (4, 3, 0),
        (8, 1000, 5),
        (256, 100_000, 0),
        (4096, 5000, 4096),
    ],
)
def test_idle_ring(kept: Kept, entries: int, before: int, unread: int, form: str) -> None:
    kept("io_uring.c", entries, before, form, unread)


@pytest.mark.parametrize(
    "kind",
    [
        "under way",
        "polled",
        "polling thread",
        "one task",
        "eventfd",
        "buffers",
        "large entries",
        "unmapped",
    ],
)
def test_x26_what_is_not_idle_is_refused(refused: Refused, kind: str) -> None:
    words = refused("io_uring_refused.c", kind)
    assert "fd 3: io_uring: " in words
    assert words.endswith("or close it before the checkpoint")
