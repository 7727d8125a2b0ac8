"""Programs that check all of their memory themselves, under deltas, killed and brought back."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.job import Job
from tests.sls.driver import command_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

ROUNDS = 21
CHANGED_PAGES = 20  # in a round of the program
OTHER_PAGES = 100  # stacks and the like


def start(job: Job, binaries: Path, *case: str) -> None:
    job.start(*command_of("rounds.c", binaries), job.directory / "go", *case, attach=False)
    job.wait_more_lines(3)
    job.attach()


def newest(job: Job) -> int:
    return int((job.partition / "checkpoint").read_text())


def has_newer(job: Job, epoch: int) -> bool:
    return newest(job) > epoch


def come_back(job: Job, epoch: int) -> None:
    """Kill the program, bring a generation back, and let it check itself for a few rounds."""
    job.kill()
    job.restore(epoch)
    job.wait_more_lines(5)


def ends_well(job: Job) -> None:
    (job.directory / "go").touch()
    assert job.wait_end() == 7, job.text()[-300:]


def test_213_fork_shared_memory_stays_shared_under_periodic_deltas(
    job: Job, binaries: Path
) -> None:
    start(job, binaries, "shared")
    job.write("retain", 30)
    for _ in range(3):
        job.write("period", 10)
        job.checkpoint("recursive")
        job.wait_for(partial(has_newer, job, newest(job) + 9), "generations")
        job.write("period", 0)
        come_back(job, newest(job))
    ends_well(job)


@pytest.mark.parametrize(
    ("case", "kind"),
    [
        (("private",), "delta"),
        (("private", "closed"), "delta"),
        (("shared",), "delta"),
        (("private",), "full"),
    ],
    ids=["258-tracked", "259-untracked", "260-shared", "261-full"],
)
def test_258_263_21_rounds_cost_the_same_and_restore(
    job: Job, binaries: Path, case: tuple[str, ...], kind: str
) -> None:
    """Tracked; where no userfaultfd can be had; shared memory; without tracking. Cost: pages of a generation."""
    job.write("mode", kind)
    start(job, binaries, *case)
    told: list[dict[str, Any]] = []
    lines = [0]
    for _ in range(ROUNDS):
        job.wait_more_lines(2)
        told.append(job.info(job.checkpoint("recursive"))["captured"])
        lines.append(len(job.lines()))
    assert [one["kind"] for one in told[1:]] == [kind] * (ROUNDS - 1)
    if case[-1] != "closed" and kind == "delta":
        for number in range(1, ROUNDS):
            rounds = lines[number + 1] - lines[number - 1]
            assert told[number]["pages"] <= OTHER_PAGES + CHANGED_PAGES * (rounds + 1)
    else:
        pages = [one["pages"] for one in told]
        assert max(pages) <= 1.5 * min(pages)  # what is written during an early copy counts twice
    for epoch in (ROUNDS, ROUNDS // 2, ROUNDS - 1):
        come_back(job, epoch)
    ends_well(job)
