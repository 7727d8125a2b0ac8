"""Stressors of stress-ng, with SLS_LONG=1: they count seconds, which a busy machine has not. All, by the script."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.acceptance.conftest import MakeJob
from tests.acceptance.stress_ng import Outcome, tried, unified_hierarchy
from tests.acceptance.test_real_programs import needs

pytestmark = [
    pytest.mark.root,
    pytest.mark.fuse,
    needs("stress-ng"),
    pytest.mark.skipif(not os.environ.get("SLS_LONG"), reason="half an hour: SLS_LONG=1 runs it"),
    pytest.mark.skipif(
        unified_hierarchy() is None, reason="control groups of version 2 are missing"
    ),
]

SCRIPT = Path(__file__).parents[2] / "scripts" / "stress-table.py"
SECONDS = 2
QUICK = (
    "eventfd", "fifo", "futex", "itimer", "memfd", "pipe", "pthread", "sem", "shm", "sigq", "timer", "vm",
)  # fmt: skip
REFUSED = {"secretmem": "secret memory is hidden"}


@pytest.mark.parametrize("name", QUICK)
def test_a_stressor_ends_well(make_job: MakeJob, name: str) -> None:
    job = make_job()
    result = tried(name, job.partition, job.directory, SECONDS)
    assert result.outcome is Outcome.WELL, result.words


@pytest.mark.parametrize("name", REFUSED)
def test_x26_a_stressor_is_refused_by_name(make_job: MakeJob, name: str) -> None:
    job = make_job()
    result = tried(name, job.partition, job.directory, SECONDS)
    assert result.outcome in (Outcome.REFUSED, Outcome.NOT_HERE)
    assert result.outcome is Outcome.NOT_HERE or REFUSED[name] in result.words


def test_every_stressor(tmp_path: Path) -> None:
    """None comes back wrong, none hangs."""
    table = tmp_path / "stress-ng.tsv"
    subprocess.run([sys.executable, SCRIPT, "--table", table], check=True)
