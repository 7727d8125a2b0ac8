"""Stop time, total time and restore time of the main job, through a mount. Prints a markdown table.

    python benchmarks/main_job.py [--rounds N]

Each program is attached, checkpointed in full `rounds` times, killed and restored as often; medians and worst of the
stop time (members stand still), the checkpoint (write to `checkpoint` until the generation exists) and the restore
(write to `restore` until the first instruction). Run as root on an idle machine.
"""

import argparse
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

PROGRAMS = Path(__file__).parent / "programs"


class Job(NamedTuple):
    """A program to keep."""

    name: str
    source: str
    arguments: tuple[str, ...]


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


@contextmanager
def mounted(directory: Path) -> Iterator[Path]:
    """A fresh store on a fresh mount."""
    script = Path(__file__).parents[1] / "scripts" / "mount-slfs.sh"
    mountpoint = directory / "mnt"
    mountpoint.mkdir()
    subprocess.run(
        [script, "--store", directory / "store", mountpoint],
        check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield mountpoint / "partitions"
    finally:
        subprocess.run(["umount", mountpoint], check=True)


def start(job: Job, directory: Path) -> subprocess.Popen[bytes]:
    """Start the program and wait until it says that it is ready."""
    source = PROGRAMS / job.source
    if source.suffix == ".c":
        binary = directory / source.stem
        subprocess.run(["gcc", "-O1", "-pthread", source, "-o", binary], check=True)
        command = [str(binary), *job.arguments]
    else:
        command = ["python3", str(source), *job.arguments]
    ready = directory / "ready"
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*command, str(ready)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not ready.exists():
        time.sleep(0.05)
    time.sleep(0.5)
    return process


def end(partition: Path) -> None:
    """Kill every member, and wait until the numbers are free."""
    pids = [int(pid) for pid in (partition / "attach").read_text().split()]
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    while any(is_running(pid) for pid in pids):
        time.sleep(0.01)


def is_running(pid: int) -> bool:
    """Whether the number is in use by more than a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def write(path: Path, text: str) -> float:
    """Milliseconds that a write to a control file takes."""
    begin = time.perf_counter()
    path.write_text(text)
    return (time.perf_counter() - begin) * 1e3


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
        process.poll()
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
    print(
        f"{platform.node()}: Linux {platform.release()}, {os.cpu_count()} cores, {time.strftime('%Y-%m-%d')}\n"
    )
    print("| program | stop, ms | checkpoint, ms | restore, ms |\n|---|---|---|---|")
    with tempfile.TemporaryDirectory() as name, mounted(Path(name)) as partitions:
        for number, job in enumerate(JOBS, 1):
            times = measure(job, partitions / str(number), Path(name), rounds)
            print(f"| {job.name} | {' | '.join(map(figures, times))} |")
            sys.stdout.flush()
            (partitions / str(number)).rmdir()


if __name__ == "__main__":
    main()
