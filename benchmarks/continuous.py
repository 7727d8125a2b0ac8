"""Stop times and periods kept of continuous checkpoints, through a mount. Prints markdown tables.

    python benchmarks/continuous.py [--row ROW]… [--seconds N] [--period MS] [--no-floor] [--quick]

Rows: 100m, 1g (a process of that size that writes 160 scattered pages every 10 ms), threads (16), tree (21 processes),
ls (100m while `ls -lR` of the mount runs in a loop), long (100m for 60 s, and the daemon's memory), first (the first
full checkpoint of 1g), redis (periods 100 and 20 ms). Beside each stop time stands its floor: a C program that makes
the very system calls of one stop, as recorded from the tracer in the same run, on the same process
(benchmarks/floor.py). The first second is not counted.
`--quick`: 2 s a row, no 1 GiB. Run as root on an idle machine.
"""

import argparse
import json
import os
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cache_server
from floor import copy_compress_write, measure, record
from floor import run as run_floor
from jobs import Job, end, machine, mounted, resident_bytes, start, workers

JOBS = {
    "100m": Job("C, 100 MiB, 160 pages", "work.c", ("100", "1", "0")),
    "1g": Job("C, 1 GiB, 160 pages", "work.c", ("1024", "1", "0")),
    "threads": Job("16 threads, 4 MiB", "work.c", ("4", "16", "0")),
    "tree": Job("21 processes, 1 MiB each", "work.c", ("1", "1", "20")),
}
BARS_MS = {  # of the stop: p50, p99
    "100m": (0.8, 2.5),
    "1g": (2.0, 5.0),
    "threads": (3.0, None),
    "tree": (20.0, None),
}
WARM_UP_S = 1.0


class Options(NamedTuple):
    """What the command line says."""

    directory: Path
    partitions: Path
    seconds: float
    period_ms: int
    floor: bool

    @property
    def mountpoint(self) -> Path:
        return self.partitions.parent

    @property
    def daemon(self) -> int:
        """The pid of the mount's daemon."""
        return int(json.loads((self.mountpoint / "status").read_text())["pid"])


class Run(NamedTuple):
    """What one stretch of continuous checkpoints left. Times in milliseconds, one value a generation."""

    stops: list[float]
    stages: dict[str, list[float]]
    pages: list[int]
    kept: int
    expected: int
    missed: int
    stats: dict[str, Any]


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def three(values: Sequence[float]) -> str:
    """p50 / p99 / max."""
    return f"{percentile(values, 0.5):.2f} / {percentile(values, 0.99):.2f} / {max(values):.2f}"


@contextmanager
def continuous(options: Options, pid: int, *, period_ms: int = 0) -> Iterator[Path]:
    """Keep a process in a partition of its own, warmed up; the block ends the periods and the members."""
    partition = options.partitions / "1"
    partition.mkdir()
    (partition / "mode").write_text("delta")
    (partition / "period").write_text(f"{period_ms or options.period_ms}")
    (partition / "attach").write_text(f"{pid}")
    (partition / "checkpoint").write_text("recursive")
    time.sleep(WARM_UP_S)
    try:
        yield partition
    finally:
        (partition / "period").write_text("0")
        end(partition)
        partition.rmdir()


def observe(options: Options, partition: Path, seconds: float, period_ms: int) -> Run:
    """Let the periods go on for so long, and read what every generation says."""
    missed = stats_of(partition)["missed"]
    first = newest(partition)
    began = time.monotonic()
    time.sleep(seconds)
    last = newest(partition)
    took = time.monotonic() - began
    stats = stats_of(partition)
    notes = [captured(partition, epoch) for epoch in range(first + 1, last + 1)]
    if not notes:
        raise SystemExit(f"no generation in {took:.1f} s; {(partition / 'log').read_text()[-500:]}")
    names = list(notes[0]["stages_ns"])
    return Run(
        stops=[note["stop_ns"] / 1e6 for note in notes],
        stages={name: [note["stages_ns"].get(name, 0) / 1e6 for note in notes] for name in names},
        pages=[note["pages"] for note in notes],
        kept=last - first,
        expected=round(took * 1000 / period_ms),
        missed=stats["missed"] - missed,
        stats=stats,
    )


def newest(partition: Path) -> int:
    return int((partition / "checkpoint").read_text())


def stats_of(partition: Path) -> dict[str, Any]:
    return dict(json.loads((partition / "stats").read_text()))


def captured(partition: Path, epoch: int) -> dict[str, Any]:
    info = json.loads((partition / "generations" / f"{epoch}" / "info").read_text())
    return dict(info["captured"])


def bar_of(row: str, stops: Sequence[float]) -> str:
    p50, p99 = BARS_MS[row]
    met = percentile(stops, 0.5) <= p50 and (p99 is None or percentile(stops, 0.99) <= p99)
    return f"{p50}{f' / {p99}' if p99 else ''} | {'yes' if met else 'no'}"


def lag_of(stats: dict[str, Any]) -> str:
    """From the capture to durability, p50 / p99, of the last 1,000."""
    lag = stats.get("lag_ns") or stats["total_ns"]
    return f"{lag['p50'] / 1e6:.1f} / {lag['p99'] / 1e6:.1f}"


def stages_line(run: Run) -> str:
    """The median of each stage."""
    return ", ".join(
        f"{name} {statistics.median(values):.2f}" for name, values in run.stages.items()
    )


def stop_row(row: str, options: Options) -> None:
    """One line of the table of stop times, and one of its stages."""
    process = start(JOBS[row], options.directory)
    with continuous(options, process.pid) as partition:
        run = observe(options, partition, options.seconds, options.period_ms)
        beside = floor_of(options, partition, run) if options.floor else "| "
    process.wait()
    print(
        f"| {JOBS[row].name} | {three(run.stops)} | {bar_of(row, run.stops)} {beside}"
        f"| {run.kept} of {run.expected}, {run.missed} missed | {lag_of(run.stats)} "
        f"| {statistics.median(run.pages):.0f} |"
    )
    print(f"| ↳ stages | {stages_line(run)} | | | | | | | |", flush=True)


def floor_of(options: Options, partition: Path, run: Run) -> str:
    """Cells with the floor and the ratio to it. The partition's tracer is killed for it."""
    pids = [int(pid) for pid in (partition / "attach").read_text().split()]
    (worker,) = workers(options.daemon)
    floor = measure(worker, pids, options.directory, options.period_ms)
    ratio = statistics.median(run.stops) / statistics.median(floor)
    return f"| {three(floor)} | {ratio:.2f} "


STOP_HEAD = """\
| program | stop, ms: p50 / p99 / max | bar p50 / p99 | met | floor | × (bar 2) | periods kept | lag, ms | pages |
|---|---|---|---|---|---|---|---|---|"""


@contextmanager
def listing(directory: Path) -> Iterator[None]:
    """While `ls -lR` of the directory runs in a loop."""
    over = threading.Event()

    def list_all() -> None:
        while not over.is_set():
            command = ["timeout", "5", "ls", "-lR", str(directory)]
            subprocess.run(command, check=False, capture_output=True)

    lister = threading.Thread(target=list_all)
    lister.start()
    try:
        yield
    finally:
        over.set()
        lister.join()


def ls_row(options: Options) -> None:
    """The stop time of 100m, without and with `ls -lR` of the mount in a loop, in the same run; and the floor's."""
    process = start(JOBS["100m"], options.directory)
    print("\n| while `ls -lR` runs | stop, ms | without | p99, ratio | bar | met |")
    print("|---|---|---|---|---|---|")
    with continuous(options, process.pid) as partition:
        quiet = observe(options, partition, options.seconds, options.period_ms).stops
        with listing(options.mountpoint):
            busy = observe(options, partition, options.seconds, options.period_ms).stops
        print_listed("C, 100 MiB", quiet, busy)
        if options.floor:
            script = record(*workers(options.daemon), [process.pid], options.directory)
            rounds = round(options.seconds * 1000 / options.period_ms)
            again = partial(
                run_floor, script, options.directory, options.period_ms, rounds, is_first=True
            )
            quiet = again()
            with listing(options.mountpoint):
                busy = again()
            print_listed("↳ its floor", quiet, busy)
    process.wait()


def print_listed(name: str, quiet: Sequence[float], busy: Sequence[float]) -> None:
    ratio = percentile(busy, 0.99) / percentile(quiet, 0.99)
    met = "yes" if ratio <= 1.5 else "no"
    print(f"| {name} | {three(busy)} | {three(quiet)} | {ratio:.2f} | ≤ 1.5 | {met} |", flush=True)


def long_row(options: Options) -> None:
    """60 s, with the daemon's own memory at 10 s and at the end."""
    seconds = 60.0 if options.seconds > 2 else 10.0
    process = start(JOBS["100m"], options.directory)
    with continuous(options, process.pid) as partition:
        (partition / "retain").write_text("50")
        time.sleep(seconds / 6)
        before = resident_bytes(options.daemon)
        first, began = newest(partition), time.monotonic()
        time.sleep(seconds)
        kept, took = newest(partition) - first, time.monotonic() - began
        after = resident_bytes(options.daemon)
    process.wait()
    share = kept / (took * 1000 / options.period_ms)
    print(
        "\n| periods kept | of | bar | met | daemon's memory, MiB: start → end |\n|---|---|---|---|---|"
    )
    print(
        f"| {kept} ({share:.1%}) | {took * 1000 / options.period_ms:.0f} in {took:.0f} s | ≥ 95 % "
        f"| {'yes' if share >= 0.95 else 'no'} | {before >> 20} → {after >> 20} |",
        flush=True,
    )


def first_row(options: Options) -> None:
    """The first full checkpoint of 1 GiB, durable, beside copying, compressing and writing as much."""
    process = start(JOBS["1g"], options.directory)
    partition = options.partitions / "1"
    partition.mkdir()
    (partition / "mode").write_text("delta")
    (partition / "attach").write_text(f"{process.pid}")
    began = time.perf_counter()
    fd = os.open(partition / "checkpoint", os.O_WRONLY)
    os.write(fd, b"recursive")
    exists = time.perf_counter() - began
    os.fsync(fd)
    total = time.perf_counter() - began
    os.close(fd)
    note = captured(partition, newest(partition))
    floor = copy_compress_write(process.pid, options.directory)
    end(partition)
    process.wait()
    partition.rmdir()
    stop_ms, limit = note["stop_ns"] / 1e6, sum(floor)
    good = stop_ms <= 10 and total <= 1.3 * limit
    stages = ", ".join(f"{name} {value / 1e6:.1f}" for name, value in note["stages_ns"].items())
    print(
        "\n| first full checkpoint | stop, ms | exists, s | durable, s | copy + lz4 + write, s | × | bars | met |"
    )
    print("|---|---|---|---|---|---|---|---|")
    print(
        f"| C, 1 GiB, 160 pages | {stop_ms:.1f} | {exists:.2f} | {total:.2f} "
        f"| {' + '.join(f'{one:.2f}' for one in floor)} | {total / limit:.2f} "
        f"| ≤ 10 ms, ≤ 1.3 × | {'yes' if good else 'no'} |\n| ↳ stages | {stages} | | | | | | |",
        flush=True,
    )


def redis_row(options: Options) -> None:
    quick = options.seconds <= 2
    for line in cache_server.rows(
        options.directory,
        options.partitions,
        options.seconds,
        keys=100_000 if quick else cache_server.KEYS,
        floor=options.floor,
    ):
        print(line, flush=True)


ROWS: dict[str, Callable[[Options], None]] = {
    "ls": ls_row,
    "long": long_row,
    "first": first_row,
    "redis": redis_row,
}


def main() -> None:
    """Print the tables."""
    names = [*JOBS, *ROWS]
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--row", action="append", choices=names)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--period", type=int, default=10)
    parser.add_argument("--no-floor", action="store_true")
    parser.add_argument("--quick", action="store_true")
    words = parser.parse_args()
    rows = words.row or [name for name in names if not words.quick or name not in ("1g", "first")]
    print(f"{machine()}, period {words.period} ms\n")
    with tempfile.TemporaryDirectory() as name, mounted(Path(name)) as partitions:
        options = Options(
            Path(name), partitions, 2.0 if words.quick else words.seconds, words.period,
            not words.no_floor,
        )  # fmt: skip
        if any(row in JOBS for row in rows):
            print(STOP_HEAD)
        for row in rows:
            if row in JOBS:
                stop_row(row, options)
            else:
                ROWS[row](options)


if __name__ == "__main__":
    main()
