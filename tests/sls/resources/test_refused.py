"""What cannot be kept is refused by name, the program unharmed."""

import pytest

from tests.sls.conftest import Refused


@pytest.mark.parametrize("kind", ["userfaultfd", "io_uring", "bpf", "perf", "fanotify", "fuse"])
def test_x26_refused_by_name(refused: Refused, kind: str) -> None:
    words = refused("refused.c", kind)
    assert "fd 3" in words
    assert kind in words
    assert words.endswith("close it before the checkpoint")
