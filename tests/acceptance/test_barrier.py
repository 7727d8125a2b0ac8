"""What a program has said, and what a restore takes back of it, with a barrier and without."""

import os
import random
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import StartSums
from tests.acceptance.job import Job
from tests.mounts import MakeMount

pytestmark = [pytest.mark.root, pytest.mark.fuse, pytest.mark.crash]


def barrier(job: Job) -> int:
    """Take a generation and wait until it is durable; its number."""
    with (job.partition / "checkpoint").open("rb+", buffering=0) as control:
        control.write(b"recursive\n")
        os.fsync(control.fileno())
        control.seek(0)
        return int(control.read())


def state_of(job: Job) -> int:
    """The number of the last line that the program knows it has written."""
    return int(job.lines()[-1].split()[0])


def test_output_let_out_after_a_barrier_is_never_taken_back(
    make_mount: MakeMount, tmp_path: Path, start_sums: StartSums
) -> None:
    """What it says goes into a file; a keeper passes lines on only when a generation later than them is durable."""
    chance = random.Random(21)
    mounted = make_mount().mount()
    job = Job(mounted.partition(1, create=True), tmp_path)
    heard: list[str] = []
    try:
        start_sums(job)
        for _ in range(3):
            for _ in range(chance.randrange(1, 4)):
                job.wait_more_lines(chance.randrange(1, 6))
                said = job.lines()
                barrier(job)
                heard = said  # the program was beyond these lines when the generation was taken
            job.wait_more_lines(5)  # said, but let out to nobody
            os.kill(mounted.daemon, signal.SIGKILL)
            mounted.wait_ended()
            os.kill(job.pid, signal.SIGKILL)
            mounted.mount()
            job.forget_child()
            length = len(job.text())
            job.restore()
            job.wait_more_lines(1)
            first = int(job.text()[length:].split()[0])
            assert first > int(heard[-1].split()[0]), "what was heard is in the program's past"
            assert first <= state_of(job)
    finally:
        job.end()


def test_without_a_barrier_output_is_said_again(job: Job, start_sums: StartSums) -> None:
    """The terminal, a pipe or a file outside of files/ keeps what was written after the generation: it comes twice."""
    start_sums(job)
    job.checkpoint()
    kept = state_of(job)
    job.wait_more_lines(20)
    job.kill()
    said = job.lines()
    job.restore()
    job.wait_for(lambda: said[-1] in job.lines()[len(said) :], "what was said")
    again = job.lines()[len(said) :]
    assert job.lines()[: len(said)] == said, "what was said stays said"
    assert int(again[0].split()[0]) <= kept + 2
    assert set(said[-10:]) <= set(again), "and is said again, the same"
