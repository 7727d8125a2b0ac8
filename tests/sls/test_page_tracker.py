"""Page tracking of a running process: what it writes during a look, and that it ends meanwhile.

Each descriptor of ours is closed once, for its number is reused.
"""

import mmap
import os
import subprocess

import pytest

from sls import proc, syscalls
from sls.capture import Tracer
from sls.errors import TaskDiedError
from sls.page_tracker import _FEATURES, PageTracker
from sls.ranges import Ranges, as_list
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


def tracker_of_ours() -> PageTracker:
    """One that watches this process."""
    tracker = PageTracker(os.getpid())
    tracker._userfaultfd = syscalls.syscall("userfaultfd", os.O_CLOEXEC | os.O_NONBLOCK)
    syscalls.userfaultfd_api(tracker._userfaultfd, _FEATURES)
    return tracker


def test_what_is_first_written_to_during_a_look_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """By that look, or by the next: it must not be armed without being copied."""

    def write_meanwhile() -> None:
        page = mmap.PAGESIZE
        memory = mmap.mmap(-1, 64 * page, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[0] = 1
        address = syscalls.address_of(memory)
        maps = proc.parse_maps(proc.read(os.getpid(), "maps"))
        vmas = [vma for vma in maps if vma.start <= address < vma.end]
        tracker = tracker_of_ours()
        tracker.look(vmas, full=True)
        populated = tracker._populated

        def late(start: int, end: int) -> tuple[Ranges, Ranges, Ranges]:
            found = populated(start, end)
            memory[20 * page] = 1
            return found

        with monkeypatch.context() as patched:
            patched.setattr(tracker, "_populated", late)
            copied = as_list(tracker.look_again().copied)
        copied += as_list(tracker.look(vmas, full=False).copied)
        late_page = address + 20 * page
        assert any(start <= late_page < end for start, end in copied)
        tracker.close()

    apart(write_meanwhile)


def test_a_look_that_was_begun_finds_what_was_written_and_one_abandoned_loses_nothing() -> None:
    def look() -> None:
        size = 8 << 20  # enough to be dense
        memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        memory[:] = b"x" * size
        address = syscalls.address_of(memory)
        maps = proc.parse_maps(proc.read(os.getpid(), "maps"))
        vmas = [vma for vma in maps if vma.start <= address < vma.end]
        tracker = tracker_of_ours()
        tracker.look(vmas, full=True)

        def written(*, is_begun: bool) -> bytes:
            if is_begun:
                tracker.begin_look(vmas)
                assert tracker._ahead is not None
                assert tracker._ahead.is_begun
            found = as_list(tracker.look(vmas, full=False).copied)
            marks = [0] * (size // mmap.PAGESIZE)
            for start, end in found:
                for page in range(start, min(end, address + size), mmap.PAGESIZE):
                    if page >= address:
                        marks[(page - address) // mmap.PAGESIZE] = 1
            return bytes(marks)

        def write(*pages: int) -> bytes:
            for page in pages:
                memory[page * mmap.PAGESIZE] = 1
            return bytes(int(page in pages) for page in range(size // mmap.PAGESIZE))

        expected = write(3, 5, 6, 700)
        assert written(is_begun=False) == expected
        expected = write(0, 3, 1000, 2047)
        assert written(is_begun=True) == expected
        expected = write(1)
        assert written(is_begun=True) == expected
        write(77)
        tracker.begin_look(vmas)
        tracker.abandon_look()
        assert written(is_begun=False)[77]
        expected = write(78)
        assert written(is_begun=True) == expected
        tracker.close()

    apart(look)
