"""One mount on real partitions for all; in it, a fresh partition with a program for each test."""

import subprocess
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.job import READY, Job
from tests.mounts import REAL, MakeMount, Mounted, mounting
from tests.sls.driver import command_of

CYCLES: Final = 2
_oids = count(1)

ComesBack = Callable[..., Job]
StartSums = Callable[[Job], Job]
Check = Callable[[Job], None]
MakeJob = Callable[[], Job]


@pytest.fixture(scope="session")
def slfs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mounted]:
    """A mount that no test unmounts."""
    with mounting(tmp_path_factory.mktemp("slfs"), REAL) as make:
        yield make().mount()


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    """Mounts of its own, for a test that ends them."""
    with mounting(tmp_path, REAL) as make:
        yield make


@pytest.fixture
def make_job(slfs: Mounted, tmp_path: Path) -> Iterator[MakeJob]:
    """`make_job()`: a new partition, yet without a program."""
    made: list[Job] = []

    def make() -> Job:
        oid = next(_oids)
        directory = tmp_path / str(oid)
        directory.mkdir()
        made.append(Job(slfs.partition(oid, create=True), directory))
        return made[-1]

    try:
        yield make
    finally:
        for job in made:
            job.end()
            job.partition.rmdir()


@pytest.fixture
def job(make_job: MakeJob) -> Job:
    """The one that most tests need."""
    return make_job()


@pytest.fixture
def comes_back(job: Job, binaries: Path) -> ComesBack:
    """Checkpoint a self-checking program of tests/programs/, kill it, restore it, twice; it must end well."""

    def run(program: str, *case: object) -> Job:
        go = job.directory / "go"
        job.start(*command_of(program, binaries), go, *case, attach=False)
        job.wait_ready()
        job.attach()
        for _ in range(CYCLES):
            job.checkpoint("recursive")
            job.kill()
            job.restore()
        go.touch()
        assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")
        return job

    return run


# --- the program that prints running sums -----------------------------------------------------


@pytest.fixture
def start_sums(binaries: Path) -> StartSums:
    """Start the running sums in a job: a line every half millisecond."""

    def start(job: Job) -> Job:
        job.start(*command_of("sums.c", binaries), job.directory / "go", 10**9, 500)
        job.wait_more_lines(5)
        return job

    return start


@pytest.fixture
def ends_without_a_gap(binaries: Path) -> Check:
    """Let the sums end, and compare every line with an undisturbed run's."""

    def check(job: Job) -> None:
        (job.directory / "go").touch()
        assert job.wait_end() == 7
        numbers = [int(line.split()[0]) for line in job.lines()]
        command = [*command_of("sums.c", binaries), "/nonexistent", str(max(numbers))]
        undisturbed = subprocess.run(command, capture_output=True, text=True, check=False)
        reference = undisturbed.stdout.splitlines()
        assert job.lines() == [reference[number - 1] for number in numbers]
        steps = pairwise([0, *numbers])
        assert all(number <= before + 1 for before, number in steps), "a line is missing"

    return check
