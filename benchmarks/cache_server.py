"""A redis server at full rate: what continuous checkpoints cost it. Rows of benchmarks/continuous.py.

1,000,000 keys of 100 bytes; 50 connections, 90 % GET and 10 % SET of random keys (programs/load.c). The bars are what
the original system lost with a cache server at the same periods.
"""

import json
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from jobs import PROGRAMS, build

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from sls import syscalls
from sls.capture import Tracer

KEYS = 1_000_000
CONNECTIONS = 50
BARS = {100: 0.09, 20: 0.41}  # period in ms → share of the throughput that may be lost


class Load(NamedTuple):
    """What a stretch at full rate came to; latencies in microseconds."""

    rate: float
    p50_us: int
    p99_us: int
    max_us: int


@contextmanager
def server(directory: Path, keys: int) -> Iterator[tuple[int, int]]:
    """(pid, port) of a filled redis server, in a session of its own and with its output thrown away."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    words = [
        "redis-server",
        "--port",
        f"{port}",
        "--bind",
        "127.0.0.1",
        "--save",
        "",
        "--appendonly",
        "no",
    ]
    process = subprocess.Popen(
        [*words, "--enable-debug-command", "local"],
        cwd=directory, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        while _ask(port, "PING") != "+PONG":
            time.sleep(0.05)
        answer = _ask(port, f"DEBUG POPULATE {keys} key 100")
        assert answer == "+OK", answer
        yield process.pid, port
    finally:
        process.kill()
        process.wait()


def _ask(port: int, command: str) -> str:
    try:
        with socket.create_connection(("127.0.0.1", port)) as connection:
            connection.sendall(command.encode() + b"\r\n")
            return connection.recv(100).decode().strip()
    except ConnectionRefusedError:
        return ""


def load(program: Path, port: int, keys: int, seconds: float) -> Load:
    """Run the load for so long."""
    command = [str(program), f"{port}", f"{keys}", f"{CONNECTIONS}", f"{seconds}"]
    words = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return Load(float(words[0]), *map(int, words[1:]))


def rows(
    directory: Path,
    partitions: Path,
    seconds: float,
    *,
    keys: int = KEYS,
    periods: Sequence[int] = (100, 20),
    floor: bool = True,
) -> Iterator[str]:
    """A table: throughput and latency without, and at each period."""
    program = build(PROGRAMS / "load.c", directory)
    yield (
        f"\n| redis, {keys:,} keys | requests/s | lost | bar | met | ms: p50 / p99 / max | kept "
        "| stop, ms | pages |"
    )
    yield "|---|---|---|---|---|---|---|---|---|"
    with server(directory, keys) as (pid, port):
        load(program, port, keys, 1)
        before = load(program, port, keys, seconds)
        yield f"| without | {before.rate:,.0f} | | | | {_latency(before)} | | | |"
        partition = partitions / "1"
        partition.mkdir()
        (partition / "attach").write_text(f"{pid}")
        (partition / "retain").write_text("50")
        for period_ms in periods:
            (partition / "period").write_text(f"{period_ms}")
            (partition / "checkpoint").write_text("recursive")
            load(program, port, keys, 1)
            first = int((partition / "checkpoint").read_text())
            kept = load(program, port, keys, seconds)
            last = int((partition / "checkpoint").read_text())
            (partition / "period").write_text("0")
            time.sleep(1)
            after = load(program, port, keys, seconds)
            base = (before.rate + after.rate) / 2
            lost, bar = 1 - kept.rate / base, BARS.get(period_ms)
            yield (
                f"| period {period_ms} ms | {kept.rate:,.0f} | {lost:.0%} | {f'≤ {bar:.0%}' if bar else ''} "
                f"| {'' if bar is None else 'yes' if lost <= bar else 'no'} | {_latency(kept)} "
                f"| {last - first} of {seconds * 1000 / period_ms:.0f} {_stops(partition, first + 1, last)}"
            )
            yield f"| without, again | {after.rate:,.0f} | | | | {_latency(after)} | | | |"
            before = after
            if floor:
                for target in ("-", str(directory / "kept")):
                    yield _floor_row(
                        directory, program, (pid, port), keys, period_ms, seconds, target
                    )
        (partition / "detach").write_text(f"{pid}")
        partition.rmdir()


def _floor_row(
    directory: Path,
    program: Path,
    server: tuple[int, int],
    keys: int,
    period_ms: int,
    seconds: float,
    target: str,
) -> str:
    """The row of the floor; `target`: the file that it writes, or - for none. It stops the server as we do."""
    pid, port = server
    keeper = build(PROGRAMS / "floor_keep.c", directory)
    with _armed(pid):
        load(program, port, keys, 1)
        before = load(program, port, keys, seconds)
        command = [str(keeper), f"{pid}", f"{period_ms}", f"{seconds}", target]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as kept:
            during = load(program, port, keys, seconds)
            words = kept.communicate()[0].split()
        after = load(program, port, keys, seconds)
    lost = 1 - during.rate / ((before.rate + after.rate) / 2)
    what = "stop, find, copy" if target == "-" else "and lz4, write"
    return (
        f"| floor, {period_ms} ms: {what} | {during.rate:,.0f} | {lost:.0%} | | | {_latency(during)} "
        f"| {words[0]} of {seconds * 1000 / period_ms:.0f} | {int(words[1]) / 1000:.1f} | {words[2]} |"
    )


@contextmanager
def _armed(pid: int) -> Iterator[None]:
    """A process whose writes are tracked; nobody looks at them."""
    words = [sys.executable, __file__, f"{pid}"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"armed\n"
        try:
            yield
        finally:
            process.stdin.close()


def _arm(pid: int) -> None:
    """Track the writes of a process until stdin ends."""
    syscalls.become_tracer()
    tracer = Tracer()
    tracer.capture(lambda: [pid], full=True, track=True)
    print("armed", flush=True)
    sys.stdin.read()
    tracer.leave(lambda: [pid])


def _latency(one: Load) -> str:
    return f"{one.p50_us / 1e3:.2f} / {one.p99_us / 1e3:.2f} / {one.max_us / 1e3:.1f}"


def _stops(partition: Path, first: int, last: int) -> str:
    """Cells with the stop times of the generations kept, and the pages of one."""
    notes = []
    for epoch in range(first, last + 1):
        with suppress(FileNotFoundError):  # no longer retained
            info = json.loads((partition / "generations" / f"{epoch}" / "info").read_text())
            notes.append(info["captured"])
    if not notes:
        return "| | |"
    stops = sorted(note["stop_ns"] / 1e6 for note in notes)
    pages = statistics.median(note["pages"] for note in notes)
    return f"| {stops[len(stops) // 2]:.1f} / {stops[len(stops) * 99 // 100]:.1f} | {pages:.0f} |"


if __name__ == "__main__":
    _arm(int(sys.argv[1]))
