"""What the last checkpoints of a partition cost: percentiles, and a timeline for a trace viewer.

A bounded ring of checkpoints and counters since the partition was opened. Times are of CLOCK_MONOTONIC, which the
worker and the daemon share. Methods may be called from any thread.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sls import syscalls
from sls.requests import PartitionStatistics, Percentiles

KEPT: Final = 1000  # checkpoints
_WORKER, _COMMIT, _STOPPED = 1, 2, 3  # tracks of the timeline
_TRACKS: Final = {_WORKER: "worker", _COMMIT: "commit", _STOPPED: "members stand still"}
_STOP: Final = ("freeze", "thaw")  # its first and last stage; the others run beside the members


@dataclass
class Checkpoint:
    """One checkpoint that became a generation. Nanoseconds; `durable_ns` 0: not yet, or never known."""

    epoch: int
    kind: str
    started_ns: int
    stop_ns: int
    stages_ns: dict[str, int]
    received_ns: int
    committed_ns: int
    processes: int
    pages: int
    durable_ns: int = 0


class Times:
    """The ring and the counters. `durable_at`: when a generation became durable; None when that is not known."""

    def __init__(self, durable_at: Callable[[int], int | None]) -> None:
        self._durable_at = durable_at
        self._lock = threading.Lock()
        self._ring: deque[Checkpoint] = deque(maxlen=KEPT)
        self._undurable: deque[Checkpoint] = deque(maxlen=KEPT)
        self._checkpoints = 0
        self._failed = 0
        self._missed = 0
        self._missed_before = 0  # by continuous checkpoints that have ended
        self._pages = 0

    def add(self, checkpoint: Checkpoint, missed: int) -> None:
        """Take in a checkpoint; `missed`: periods missed since the periods began."""
        with self._lock:
            if missed < self._missed:
                self._missed_before += self._missed
            self._missed = missed
            self._checkpoints += 1
            self._pages += checkpoint.pages
            self._ring.append(checkpoint)
            self._undurable.append(checkpoint)
            self._ask_durable()

    def fail(self) -> None:
        """A checkpoint was refused or lost."""
        with self._lock:
            self._failed += 1

    def _ask_durable(self) -> None:
        while self._undurable:
            time_ns = self._durable_at(self._undurable[0].epoch)
            if time_ns is None:
                return
            self._undurable.popleft().durable_ns = time_ns

    def last(self) -> list[Checkpoint]:
        """The checkpoints of the ring, oldest first."""
        with self._lock:
            self._ask_durable()
            return list(self._ring)

    def statistics(self) -> PartitionStatistics:
        """Counters since the partition was opened; percentiles of the ring."""
        last = self.last()
        names = dict.fromkeys(name for one in last for name in one.stages_ns)
        return PartitionStatistics(
            checkpoints=self._checkpoints,
            failed=self._failed,
            missed=self._missed_before + self._missed,
            stop_ns=percentiles(one.stop_ns for one in last),
            total_ns=percentiles(one.committed_ns - one.started_ns for one in last),
            lag_ns=percentiles(one.durable_ns - one.started_ns for one in last if one.durable_ns),
            stages_ns={
                name: percentiles(one.stages_ns[name] for one in last if name in one.stages_ns)
                for name in names
            },
            pages_each=percentiles(one.pages for one in last),
            pages=self._pages,
            bytes_copied=self._pages * syscalls.PAGE_BYTES,
        )


def percentiles(values: Iterable[int]) -> Percentiles:
    """Of whatever there is; zeros for nothing."""
    ordered = sorted(values)
    if not ordered:
        return Percentiles()
    p50, p90, p99 = (
        ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 90, 99)
    )
    return Percentiles(p50, p90, p99, ordered[-1])


# --- the timeline: trace events as chrome://tracing and Perfetto read them ------------------------------------------


def timeline(oid: int, checkpoints: Sequence[Checkpoint]) -> dict[str, Any]:
    """A trace: the worker's stages, the stop, the commit, and from there to durability. Microseconds."""
    events: list[dict[str, Any]] = [_name(oid, "process_name", f"partition {oid}", 0)]
    events += [_name(oid, "thread_name", name, track) for track, name in _TRACKS.items()]
    for one in checkpoints:
        events += _events(oid, one)
    return {"displayTimeUnit": "ms", "traceEvents": events}


def _name(oid: int, what: str, name: str, track: int) -> dict[str, Any]:
    return {"name": what, "ph": "M", "pid": oid, "tid": track, "args": {"name": name}}


def _events(oid: int, one: Checkpoint) -> Iterator[dict[str, Any]]:
    numbers = {"pages": one.pages, "processes": one.processes, "stop_ns": one.stop_ns}
    title = f"{one.kind} {one.epoch}"
    end_ns = one.started_ns + sum(one.stages_ns.values())
    yield _span(oid, _WORKER, title, one.started_ns, end_ns) | {"args": numbers}
    stop_ns = [one.started_ns, end_ns]
    at_ns = one.started_ns
    for name, length_ns in one.stages_ns.items():
        if name == _STOP[0]:
            stop_ns[0] = at_ns
        yield _span(oid, _WORKER, name, at_ns, at_ns + length_ns)
        at_ns += length_ns
        if name == _STOP[1]:
            stop_ns[1] = at_ns
    yield _span(oid, _STOPPED, title, *stop_ns)
    yield _span(oid, _COMMIT, title, one.received_ns, one.committed_ns)
    yield {"name": "pages", "ph": "C", "pid": oid, "ts": at_ns / 1e3, "args": {"pages": one.pages}}
    if one.durable_ns > one.committed_ns:  # these overlap: asynchronous events have a line each
        until = {
            "name": "until durable",
            "cat": "durability",
            "id": one.epoch,
            "pid": oid,
            "tid": 0,
        }
        yield until | {"ph": "b", "ts": one.committed_ns / 1e3, "args": {"generation": one.epoch}}
        yield until | {"ph": "e", "ts": one.durable_ns / 1e3}


def _span(oid: int, track: int, name: str, start_ns: int, end_ns: int) -> dict[str, Any]:
    return {
        "name": name, "cat": "checkpoint", "ph": "X", "pid": oid, "tid": track,
        "ts": start_ns / 1e3, "dur": max(0, end_ns - start_ns) / 1e3,
    }  # fmt: skip
