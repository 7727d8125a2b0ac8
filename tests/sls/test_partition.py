"""A partition whose tracer process is killed, whose store is full, whose member cannot be kept any more."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from slos.errors import StoreFullError
from sls import proc
from sls.errors import PartitionStateError
from sls.partition import Partition
from sls.requests import CheckpointRequest, Event, RestoreOutcome, RestoreRequest, Settings
from tests.conftest import WaitUntil
from tests.fakes.held_store import HeldStore

pytestmark = pytest.mark.root

OID = 1
PERIOD_MS = 10
OUTCOME_SECONDS = 60.0
ENDED = "the tracer process has ended; the members go on, the next checkpoint starts another"  # the log's


class Kept:
    """A partition with one member, in a store that can be held up."""

    def __init__(self, period_ms: int, command: str) -> None:
        self.events: list[Event] = []
        self.store = HeldStore()
        self.store.create_partition(OID)
        settings = Settings(period_ms=period_ms)
        self.partition = Partition(OID, self.store, settings, self.events.append)
        self._parent = subprocess.Popen(  # what is our own child could be a tracer, and is refused
            ["sh", "-c", f"{command} & echo $!; wait"], stdout=subprocess.PIPE
        )
        assert self._parent.stdout is not None
        with self._parent.stdout as numbers:
            self.member = int(numbers.readline())
        self.partition.attach([self.member])
        self._threads = ThreadPoolExecutor(1)

    def ask(self, method: str, request: object) -> "Future[Any]":
        """In another thread."""
        return self._threads.submit(getattr(self.partition, method), request)

    def state(self) -> str:
        return self.partition.status().state

    def errors(self) -> list[str]:
        return [event.text for event in self.events if event.level == "error"]

    def end_member(self) -> None:
        for pid in self.partition.members():
            os.kill(pid, signal.SIGKILL)
        self._parent.wait()

    def close(self) -> None:
        self.store.let_go()
        self._threads.shutdown()
        self.end_member()
        self.partition.close()


@pytest.fixture
def keep() -> Iterator[Callable[..., Kept]]:
    made: list[Kept] = []

    def make(period_ms: int = 0, command: str = "sleep 1000") -> Kept:
        made.append(Kept(period_ms, command))
        return made[-1]

    yield make
    for kept in made:
        kept.close()


def worker() -> int:
    """The one tracer process."""
    (found,) = (
        pid for pid in proc.descendants(os.getpid()) if b"sls.worker" in proc.read(pid, "cmdline")
    )
    return found


def kill(pid: int) -> None:
    """Kill a child and wait for its end, which is left to who has to be told, if that has not heard of it already."""
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def stop(pid: int) -> None:
    os.kill(pid, signal.SIGSTOP)
    os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)


@pytest.fixture
def busy(keep: Callable[..., Kept], wait_until: WaitUntil) -> Kept:
    """The thread that listens to the tracer commits a periodic capture, and hears of nothing until it is let go."""
    kept = keep(PERIOD_MS)
    kept.partition.checkpoint(CheckpointRequest())
    kept.store.hold()
    wait_until(kept.store.is_reached.is_set)
    return kept


@pytest.mark.parametrize("before", [kill, stop])
def test_a_checkpoint_that_the_tracer_never_read_is_taken_by_another(
    busy: Kept, wait_until: WaitUntil, before: Callable[[int], None]
) -> None:
    """It was dead when it was asked, or died then; that comes out as nothing can be sent, or nothing received."""
    tracer = worker()
    before(tracer)
    asked = busy.ask("checkpoint", CheckpointRequest())
    wait_until(lambda: asked.done() or busy.state() == "capturing")
    kill(tracer)
    busy.store.let_go()
    assert asked.result(OUTCOME_SECONDS).epoch >= 3  # the one that was waited for has come as well
    assert busy.errors() == [ENDED]
    assert busy.state() == "continuous"


def test_a_restore_that_the_tracer_never_read_is_made_by_another(
    keep: Callable[..., Kept], wait_until: WaitUntil
) -> None:
    kept = keep()
    epoch = kept.partition.checkpoint(CheckpointRequest()).epoch
    kept.end_member()
    stop(worker())
    asked = kept.ask("restore", RestoreRequest())
    wait_until(lambda: asked.done() or kept.state() == "restoring")
    kill(worker())
    assert asked.result(OUTCOME_SECONDS) == RestoreOutcome(epoch, (kept.member,))
    assert kept.errors() == [ENDED]


def test_a_setting_that_comes_before_the_word_of_the_end_holds(
    busy: Kept, wait_until: WaitUntil
) -> None:
    """Continuous checkpoints have ended with the tracer, and the state says so."""
    kill(worker())
    busy.partition.configure(Settings(period_ms=2 * PERIOD_MS))
    busy.store.let_go()
    wait_until(lambda: busy.state() == "idle")
    assert busy.errors() == [ENDED]


# --- what fails leaves nothing behind ---------------------------------------------------------


class FullTree:
    """A file tree in a store that has no room for another one."""

    is_used = True

    def prepare(self) -> None:
        return

    def freeze(self) -> "FullTree":
        return self

    def epoch(self) -> int:
        return 5

    def roll_back(self, epoch: int) -> None:
        raise StoreFullError(f"no room for epoch {epoch}")


def test_files_that_cannot_be_rolled_back_leave_no_generation(keep: Callable[..., Kept]) -> None:
    kept = keep()
    epoch = kept.partition.checkpoint(CheckpointRequest()).epoch
    kept.end_member()
    kept.partition.files = FullTree()
    with pytest.raises(StoreFullError):
        kept.partition.restore(RestoreRequest())
    assert [one.epoch for one in kept.store.generations(OID)] == [epoch]


def test_a_terminal_that_is_closed_in_part_leaves_no_descriptor(
    keep: Callable[..., Kept], wait_until: WaitUntil
) -> None:
    """What of it was had already is given back."""
    kept = keep()
    kept.partition.checkpoint(CheckpointRequest())
    kept.end_member()
    with subprocess.Popen(["sh", "-c", "exec sleep 1000 >&-"]) as half:
        wait_until(lambda: not os.path.exists(f"/proc/{half.pid}/fd/1"))
        before = sorted(os.listdir("/proc/self/fd"))
        with pytest.raises(PartitionStateError, match="Bad file descriptor"):
            kept.partition.restore(RestoreRequest(terminal_pid=half.pid))
        after = sorted(os.listdir("/proc/self/fd"))
        half.kill()
    assert after == before


# Makes what cannot be kept when it gets a signal: a userfaultfd, for faults of programs alone.
UNFIT = """import ctypes, signal
library = ctypes.CDLL(None)
signal.signal(signal.SIGUSR1, lambda *_: library.syscall(323, 1))
while True:
    signal.pause()"""


def test_continuous_checkpoints_that_end_leave_nothing_in_the_members(
    keep: Callable[..., Kept], wait_until: WaitUntil
) -> None:
    kept = keep(PERIOD_MS, f"exec {sys.executable} -c '{UNFIT}'")
    wait_until(lambda: is_handling(kept.member))
    kept.partition.checkpoint(CheckpointRequest())
    wait_until(lambda: b"r-xs" in proc.read(kept.member, "maps"))
    os.kill(kept.member, signal.SIGUSR1)
    wait_until(lambda: kept.state() == "idle")
    assert "userfaultfd" in kept.errors()[0]
    assert b"r-xs" not in proc.read(kept.member, "maps")


def is_handling(pid: int) -> bool:
    return bool(int(proc.status(pid)["SigCgt"], 16) >> (signal.SIGUSR1 - 1) & 1)
