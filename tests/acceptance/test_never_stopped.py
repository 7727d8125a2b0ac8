"""Whatever is killed in the middle of a checkpoint, the application goes on, and what was kept stays."""

import os
import random
import signal
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

from sls import proc
from sls.errors import TaskDiedError
from tests.acceptance.conftest import Check
from tests.acceptance.job import Job
from tests.mounts import MakeMount, Mounted, is_alive, wait_until
from tests.sls.driver import command_of

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.slow, pytest.mark.crash]

IS_LONG = os.environ.get("SLS_LONG") == "1"
SEEDS = range(20, 70) if IS_LONG else [20]
KILLS = 20  # of each seed; the tenth ends in a restore, whose end is told
SPREAD_S = 0.03  # a checkpoint takes less


def start(job: Job, binaries: Path) -> None:
    job.start(*command_of("endure.c", binaries), job.directory / "go")
    job.wait_more_lines(5)


def begin(job: Job, file: str, words: bytes) -> threading.Thread:
    """Ask for something in a thread; whether it comes is left open."""

    def ask() -> None:
        try:
            (job.partition / file).write_bytes(words)
        except OSError:
            return

    thread = threading.Thread(target=ask)
    thread.start()
    return thread


def check_unharmed(job: Job) -> None:
    """Every task runs, with no tracer left, and the output goes on."""
    job.wait_for(partial(is_let_go, job), "tasks without a tracer")
    job.wait_more_lines(3)


def is_let_go(job: Job) -> bool:
    return all(
        proc.status(pid, tid)["TracerPid"] == "0" and proc.stat(pid).state in "RSD"
        for pid in (job.pid, *proc.descendants(job.pid))
        for tid in proc.entries(pid, "task")
    )


def worker_of(mounted: Mounted) -> int:
    """The tracer process; waits until it is one, for each that was killed is followed by another when it is needed."""
    workers: list[int] = []

    def find() -> list[int]:
        for pid in proc.descendants(mounted.daemon):
            with suppress(TaskDiedError):
                if b"sls.worker" in proc.read(pid, "cmdline"):
                    workers.append(pid)
        return workers

    wait_until(find)
    return workers[-1]


def has_ended(pid: int) -> bool:
    return not is_alive(pid)


def test_the_worker_is_killed_a_hundred_times(
    slfs: Mounted, job: Job, binaries: Path, ends_without_a_gap: Check
) -> None:
    chance = random.Random(17)
    start(job, binaries)
    job.write("retain", 3)
    for _ in range(100):
        kept = job.checkpoint()
        worker = worker_of(slfs)
        asking = begin(job, "checkpoint", chance.choice([b"\n", b"full\n"]))
        time.sleep(chance.random() * SPREAD_S)  # the instant is what is tested
        os.kill(worker, signal.SIGKILL)
        asking.join()
        wait_until(partial(has_ended, worker))
        check_unharmed(job)
        assert int((job.partition / "checkpoint").read_text()) - kept in (0, 1)
    job.checkpoint()
    assert proc.read(job.pid, "maps").count(b"r-xs") <= 1, "what dead workers left is taken away"
    job.kill()
    job.restore()
    check_unharmed(job)
    ends_without_a_gap(job)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_worker_is_killed_under_periodic_checkpoints(
    slfs: Mounted, job: Job, binaries: Path, ends_without_a_gap: Check, seed: int
) -> None:
    """At any instant of its work; `SLS_LONG=1`: a thousand times in all."""
    chance = random.Random(seed)
    start(job, binaries)
    job.write("retain", 20)
    job.write("period", 10)
    for number in range(1, KILLS + 1):
        kept = job.checkpoint("recursive")
        job.wait_for(partial(has_newer, job, kept), "a periodic generation")
        time.sleep(chance.random() * SPREAD_S)  # the instant is what is tested
        worker = worker_of(slfs)
        os.kill(worker, signal.SIGKILL)
        wait_until(partial(has_ended, worker))
        check_unharmed(job)
        if number % 10 == 0:
            job.write("period", 0)
            durable = wait_durable(job)
            job.kill()
            job.restore(durable)
            check_unharmed(job)
            job.write("period", 10)
    job.write("period", 0)
    ends_without_a_gap(job)


def has_newer(job: Job, epoch: int) -> bool:
    return int((job.partition / "checkpoint").read_text()) > epoch


def test_the_worker_is_killed_in_restores(
    slfs: Mounted, job: Job, binaries: Path, ends_without_a_gap: Check
) -> None:
    """What it was about to bring back is there as a whole, or nothing of it."""
    chance = random.Random(19)
    start(job, binaries)
    job.checkpoint()
    pids = job.members()
    for _ in range(10):
        job.kill()
        asking = begin(job, "restore", b"daemon\n")
        time.sleep(chance.random() * SPREAD_S)
        os.kill(worker_of(slfs), signal.SIGKILL)
        asking.join()
        wait_until(lambda: len([pid for pid in pids if is_alive(pid)]) in (0, len(pids)))
        if job.members():
            check_unharmed(job)
            continue
        job.restore()
    check_unharmed(job)
    ends_without_a_gap(job)


def test_the_daemon_is_killed_and_what_was_durable_restores(
    make_mount: MakeMount, tmp_path: Path, binaries: Path, ends_without_a_gap: Check
) -> None:
    chance = random.Random(18)
    mounted = make_mount().mount()
    job = Job(mounted.partition(1, create=True), tmp_path)
    try:
        start(job, binaries)
        for _ in range(5):
            if not job.members():
                job.attach()
            job.checkpoint()
            durable = wait_durable(job)
            asking = begin(job, "checkpoint", b"\n")
            time.sleep(chance.random() * SPREAD_S)
            os.kill(mounted.daemon, signal.SIGKILL)
            asking.join()
            mounted.wait_ended()
            check_unharmed(job)
            mounted.mount()
            assert (job.partition / f"generations/{durable}").is_dir()
            job.attach()
            job.kill()
            job.restore()
            check_unharmed(job)
        ends_without_a_gap(job)
    finally:
        job.end()


def wait_durable(job: Job) -> int:
    """The number of the newest generation, when it is durable."""
    with (job.partition / "checkpoint").open() as file:
        os.fsync(file.fileno())
        return int(file.read())
