"""Page tracking of a process that ends meanwhile: each descriptor of ours is closed once, for its number is reused."""

import os
import subprocess

import pytest

from sls import proc
from sls.capture import Tracer
from sls.errors import TaskDiedError
from sls.page_tracker import PageTracker
from tests.sls.apart import apart

pytestmark = pytest.mark.root


def descriptors() -> list[bytes]:
    me = os.getpid()
    found = (fd for fd in proc.entries(me, "fd") if os.path.exists(f"/proc/{me}/fd/{fd}"))
    return [proc.link(me, f"fd/{fd}") for fd in found]


def test_a_look_at_one_that_has_ended() -> None:
    before = descriptors()
    with subprocess.Popen(["sleep", "60"]) as program:
        tracker = PageTracker(program.pid)
        program.kill()
    with pytest.raises(TaskDiedError):
        tracker.look([], full=True)
    tracker.close()
    assert descriptors() == before


def test_one_that_has_ended_when_it_is_to_be_remembered() -> None:
    def remember() -> None:
        tracer = Tracer()
        before = descriptors()
        with subprocess.Popen(["sleep", "60"]) as program:
            tracer.member(program.pid, program.pid, 1)
            program.kill()
        with pytest.raises(TaskDiedError):
            tracer.member(program.pid, program.pid, 2)
        tracer.leave(list)
        assert descriptors() == before

    apart(remember)
