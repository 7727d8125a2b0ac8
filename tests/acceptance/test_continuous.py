"""Continuous checkpoints, seen through the control files: what `stats` and `trace` tell of them."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from sls import proc
from tests.acceptance.job import ROOT, Job
from tests.mounts import Mounted, load
from tests.sls.driver import command_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

STAGES = {"freeze", "prepare", "read", "copy", "thaw"}


def newest(job: Job) -> int:
    return int((job.partition / "checkpoint").read_text())


def take_some(job: Job, binaries: Path, count: int = 20) -> dict[str, Any]:
    """Let a program be kept every 10 ms until there are so many generations, durable; the final `stats`."""
    job.start(*command_of("endure.c", binaries), job.directory / "go")
    job.wait_more_lines(1)
    job.write("period", 10)
    job.checkpoint("recursive")
    job.wait_for(lambda: newest(job) >= count, "generations")
    job.write("period", 0)
    job.wait_for(lambda: job.status()["durable"] == newest(job), "durability")
    return load(job.partition / "stats")


def test_a_period_of_0_returns_when_no_more_comes(slfs: Mounted, job: Job, binaries: Path) -> None:
    """The worker, who is held up meanwhile, has taken it in by then."""
    job.start(*command_of("endure.c", binaries), job.directory / "go")
    job.write("period", 10)
    job.checkpoint()
    worker = max(proc.children(slfs.daemon))
    asking = threading.Thread(target=job.write, args=("period", 0))
    os.kill(worker, signal.SIGSTOP)
    try:
        asking.start()
        job.wait_for(lambda: job.status()["busy"] == "period", "the write")
        assert asking.is_alive()
    finally:
        os.kill(worker, signal.SIGCONT)
        asking.join()
    last = newest(job)
    assert job.checkpoint() == last + 1


WRITE_ALL = """
memory = bytearray(24 << 20)
print("ready", flush=True)
while True:
    for position in range(0, len(memory), 4096):
        memory[position] ^= 1
"""


def test_commands_come_while_large_memory_is_kept(job: Job) -> None:
    """The worker is in the middle of asking the daemon then."""
    job.start(sys.executable, "-c", WRITE_ALL, attach=False)
    job.wait_ready()
    job.attach()
    job.write("mode", "full")
    job.write("retain", 3)
    for number in range(10):
        job.write("period", 1 + number % 2)
        if number % 5 == 0:
            job.checkpoint()
    assert " error: " not in job.log()
    assert job.status()["state"] == "continuous"
    job.write("period", 0)


def test_stats_tell_counts_times_and_the_lag_to_durability(job: Job, binaries: Path) -> None:
    stats = take_some(job, binaries)
    assert stats["checkpoints"] == newest(job)
    assert stats["failed"] == 0
    assert stats["missed"] >= 0
    for name in ("stop_ns", "total_ns", "lag_ns", "pages_each"):
        found = stats[name]
        assert 0 < found["p50"] <= found["p90"] <= found["p99"] <= found["max"], name
    assert stats["stages_ns"].keys() >= STAGES
    assert stats["lag_ns"]["p50"] >= stats["total_ns"]["p50"]
    assert stats["bytes_copied"] == 4096 * stats["pages"]


def test_trace_has_a_span_for_each_stage_of_each_checkpoint(
    slfs: Mounted, job: Job, binaries: Path
) -> None:
    take_some(job, binaries)
    events = load(job.partition / "trace")["traceEvents"]
    oid = int(job.partition.name)
    assert {one["pid"] for one in events} == {oid}
    spans = [one for one in events if one["ph"] == "X"]
    names = {one["name"] for one in spans}
    assert names >= STAGES
    for epoch in range(1, newest(job) + 1):
        assert {f"full {epoch}", f"delta {epoch}"} & names, epoch
    assert all(one["dur"] >= 0 for one in spans)
    numbers = {one["id"] for one in events if one["ph"] == "b"}
    assert numbers == {one["id"] for one in events if one["ph"] == "e"}
    assert numbers
    told = subprocess.run(
        [sys.executable, ROOT / "tools" / "slsctl", "trace", "-o", str(oid)],
        env=os.environ | {"SLFS_MOUNT": str(slfs.place)},
        check=True,
        capture_output=True,
    ).stdout
    assert json.loads(told)["traceEvents"] == events
