"""Programs to keep, on a mount of their own: start, end, and the daemon and worker behind them."""

import os
import signal
import subprocess
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


def build(source: Path, directory: Path) -> Path:
    """Compile a program of one file."""
    binary = directory / source.stem
    subprocess.run(["gcc", "-O2", "-Wall", "-pthread", source, "-o", binary], check=True)
    return binary


def start(job: Job, directory: Path) -> subprocess.Popen[bytes]:
    """Start the program and wait until it says that it is ready."""
    source = PROGRAMS / job.source
    command = [str(build(source, directory))] if source.suffix == ".c" else ["python3", str(source)]
    ready = directory / "ready"
    ready.unlink(missing_ok=True)
    process = subprocess.Popen(
        [*command, *job.arguments, str(ready)],
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


def workers(daemon: int) -> list[int]:
    """The tracer processes of a daemon."""
    children = Path(f"/proc/{daemon}/task").glob("*/children")
    pids = [int(pid) for one in children for pid in one.read_text().split()]
    return [pid for pid in pids if b"sls.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]


def resident_bytes(pid: int) -> int:
    """Memory of a process that is its own alone: neither mapped files nor memfds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise ValueError(f"pid {pid} has no memory")


def machine() -> str:
    """What the figures were taken on."""
    return f"{os.cpu_count()} cores, Linux {os.uname().release}, {time.strftime('%Y-%m-%d')}"
