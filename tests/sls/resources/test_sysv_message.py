"""System V message queues: messages, sizes, owners, last users."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sls import syscalls
from sls.capture import Tracer
from sls.resources.sysv import remove
from sls.resources.sysv_message import SysvQueuesRecord
from tests.sls.apart import Program, apart
from tests.sls.conftest import Kept
from tests.sls.driver import command_of
from tests.sls.sysv import remove_noted


@pytest.fixture(autouse=True)
def none_left(tmp_path: Path) -> Iterator[None]:
    yield
    remove_noted("msg", tmp_path)


def test_sysv_messages(kept: Kept) -> None:
    assert not kept("sysv_message.c").notes


def test_sysv_messages_that_are_gone(restored: Kept, tmp_path: Path) -> None:
    outcome = restored("sysv_message.c", between=lambda: remove_noted("msg", tmp_path))
    assert {"nobody had used it" in note.detail for note in outcome.notes} == {True}


def test_a_queue_that_nobody_has_used(tmp_path: Path, binaries: Path) -> None:
    """It is the partition's when one of its users and groups has made it."""

    def make(gid: int) -> int:
        return in_child(lambda: syscalls.syscall("msgget", 0, 0o600), gid)

    def look() -> None:
        capture = Tracer().capture(program.tree, full=True, track=False)
        states = [state for process in capture.image.processes for state in process.states]
        records = [one for one in states if isinstance(one, SysvQueuesRecord)]
        found = {one.object.identifier: one.object for one in records[0].queues}
        assert not found[ours].is_certain
        assert other not in found

    command = [*command_of("ticker.c", binaries), str(tmp_path / "go")]
    with Program(command, tmp_path) as program:
        program.wait_progress()
        ours, other = make(os.getgid()), make(12345)
        try:
            apart(look)
        finally:
            remove("msg", ours)
            remove("msg", other)


def in_child(work: Callable[[], int], gid: int) -> int:
    """What `work` gives in a process of that group."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        os.setgid(gid)
        os.write(write_end, b"%d" % work())
        os._exit(0)
    os.waitpid(pid, 0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        return int(pipe.read())
