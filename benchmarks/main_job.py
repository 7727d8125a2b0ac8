"""Stop time, total time and restore time of the main job, through a mount. Prints a markdown table.

    python benchmarks/main_job.py [--rounds N]

Each program is attached, checkpointed in full `rounds` times, killed and restored as often; medians and worst of the
stop time (members stand still), the checkpoint (write to `checkpoint` until the generation exists) and the restore
(write to `restore` until the first instruction). Run as root on an idle machine.
"""

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from jobs import Job, end, machine, mounted, start, write

JOBS = (
    Job("C loop, 4 MiB", "work.c", ("4", "1", "0")),
    Job("python3, 100 MiB", "heap.py", ("100",)),
    Job("C, 1 GiB", "work.c", ("1024", "1", "0")),
    Job("21 processes", "work.c", ("1", "1", "20")),
    Job("16 threads", "work.c", ("4", "16", "0")),
)


class Times(NamedTuple):
    """Milliseconds, one value a round."""

    stop: list[float]
    checkpoint: list[float]
    restore: list[float]


def measure(job: Job, partition: Path, directory: Path, rounds: int) -> Times:
    """Checkpoint, kill and restore a program `rounds` times."""
    times = Times([], [], [])
    process = start(job, directory)
    partition.mkdir()
    (partition / "mode").write_text("full")
    (partition / "attach").write_text(f"{process.pid}")
    for _ in range(rounds):
        times.checkpoint.append(write(partition / "checkpoint", "full recursive"))
        info = json.loads((partition / "generations" / "latest" / "info").read_text())
        times.stop.append(info["captured"]["stop_ns"] / 1e6)
    for _ in range(rounds):
        end(partition)
        process.wait()  # the number is free only then; at once in later rounds
        times.restore.append(write(partition / "restore", "daemon"))
        time.sleep(0.1)
    end(partition)
    process.wait()
    return times


def figures(values: list[float]) -> str:
    """Median and worst."""
    return f"{statistics.median(values):.1f} / {max(values):.1f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--rounds", type=int, default=10)
    rounds = parser.parse_args().rounds
    print(f"{machine()}\n")
    print("| program | stop, ms | checkpoint, ms | restore, ms |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, mounted(Path(name)) as partitions:
        for number, job in enumerate(JOBS, 1):
            times = measure(job, partitions / str(number), Path(name), rounds)
            print(f"| {job.name} | {' | '.join(map(figures, times))} |")
            sys.stdout.flush()
            (partitions / str(number)).rmdir()


if __name__ == "__main__":
    main()
