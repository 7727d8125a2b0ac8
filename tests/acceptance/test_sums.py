"""A C loop that prints running sums: kept, killed and brought back, no line is missing and none is wrong."""

import os
import signal
from pathlib import Path

import pytest

from tests.acceptance.conftest import Check, StartSums
from tests.acceptance.job import Job
from tests.mounts import MakeMount, Mounted

pytestmark = [pytest.mark.root, pytest.mark.fuse]

BACKENDS = pytest.mark.parametrize("backend", ["slos", "memory"])


def test_ten_cycles(job: Job, start_sums: StartSums, ends_without_a_gap: Check) -> None:
    start_sums(job)
    for cycle in range(10):
        job.wait_more_lines(10)
        assert job.checkpoint() == cycle + 1
        job.wait_more_lines(10)
        job.kill()
        assert job.restore() == [job.pid]
    ends_without_a_gap(job)


def keep_once(job: Job, backend: str, start_sums: StartSums) -> None:
    job.write("backend", backend)
    start_sums(job)
    job.checkpoint()
    job.wait_more_lines(10)
    job.kill()


def test_201_memory_backend(
    slfs: Mounted, job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    """What is kept is in no file."""
    stored = slfs.status()["store"]["bytes_stored"]
    keep_once(job, "memory", start_sums)
    assert slfs.status()["store"]["bytes_stored"] == stored
    job.restore()
    job.wait_more_lines(10)
    ends_without_a_gap(job)


def test_202_store_backend(
    slfs: Mounted, job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    stored = slfs.status()["store"]["bytes_stored"]
    keep_once(job, "slos", start_sums)
    assert slfs.status()["store"]["bytes_stored"] > stored
    job.restore()
    job.wait_more_lines(10)
    ends_without_a_gap(job)


@BACKENDS
def test_223_224_one_generation_five_times(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check, backend: str
) -> None:
    keep_once(job, backend, start_sums)
    for _ in range(5):
        assert job.restore(1) == [job.pid]
        job.wait_more_lines(10)
        job.kill()
    assert job.restore(1) == [job.pid]
    ends_without_a_gap(job)


@BACKENDS
def test_248_254_five_deltas_in_a_row(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check, backend: str
) -> None:
    job.write("backend", backend)
    job.write("mode", "delta")
    start_sums(job)
    for _ in range(6):
        job.wait_more_lines(5)
        job.checkpoint()
    kinds = [job.info(epoch)["captured"]["kind"] for epoch in range(1, 7)]
    assert kinds == ["full", *["delta"] * 5]
    for epoch in (6, 5, 3):
        job.kill()
        job.restore(epoch)
        job.wait_more_lines(5)
    ends_without_a_gap(job)


@pytest.mark.parametrize("row", ["246-daemon", "247-remount"])
def test_246_247_the_daemon_restarts_in_between(
    make_mount: MakeMount,
    tmp_path: Path,
    start_sums: StartSums,
    ends_without_a_gap: Check,
    row: str,
) -> None:
    """The program is long gone when the daemon comes back."""
    mounted = make_mount().mount()
    job = Job(mounted.partition(1, create=True), tmp_path)
    try:
        start_sums(job)
        job.checkpoint()
        job.wait_more_lines(10)
        job.kill()
        for _ in range(2):
            if row.startswith("246"):
                os.kill(mounted.daemon, signal.SIGTERM)
                mounted.wait_ended()
            else:
                mounted.unmount()
            mounted.mount()
        job.restore()
        job.wait_more_lines(10)
        ends_without_a_gap(job)
    finally:
        job.end()


def test_the_daemon_ends_under_a_restored_program(
    make_mount: MakeMount, tmp_path: Path, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    """It goes on without the mount; attached again, it is kept again."""
    mounted = make_mount().mount()
    job = Job(mounted.partition(1, create=True), tmp_path)
    try:
        start_sums(job)
        job.checkpoint()
        job.kill()
        job.restore()
        mounted.unmount()
        job.wait_more_lines(10)
        mounted.mount()
        assert job.members() == []
        job.attach()
        assert job.checkpoint() == 2
        job.wait_more_lines(10)
        job.kill()
        job.restore()
        ends_without_a_gap(job)
    finally:
        job.end()
