"""inotify(7): watches by path under their old numbers; unread events are reported as lost."""

from pathlib import Path

from tests.sls.conftest import Kept
from tests.sls.driver import Way


def test_219_inotify(kept: Kept) -> None:
    assert not kept("inotify.c", "quiet").losses


def test_219_inotify_with_unread_events(kept: Kept) -> None:
    losses = kept("inotify.c", "queued").losses
    assert kept.way is Way.UNTOUCHED or "inotify events" in losses[0].detail


def test_219_inotify_of_a_vanished_file(conflict: Kept, tmp_path: Path) -> None:
    outcome = conflict("inotify.c", "quiet", between=lambda: (tmp_path / "folder").rmdir())
    assert str(tmp_path / "folder") in outcome.refusal
