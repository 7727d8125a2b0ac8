"""The texts at the top of a mount: README, status, metrics."""

import os
import time
from typing import Any, Final

import msgspec

from slfs.control import to_json
from slfs.inodes import TopFiles
from slfs.registry import Registry

README: Final = """\
Aurora: processes that are kept, killed and brought back.

A partition is a group of processes. Make one, put a process in, take a generation:

    mkdir partitions/1
    echo PID > partitions/1/attach
    touch partitions/1/checkpoint
    cat partitions/1/checkpoint                the newest generation's number
    ls partitions/1/generations/latest/processes

Kill it, and bring it back where it was:

    kill -9 PID
    echo daemon > partitions/1/restore         a number before it: that generation
    cat partitions/1/restore                   the generation and the pids

In partitions/N/:
    attach      write pids: they join; read: the members
    detach      write pids: they leave and live on
    checkpoint  touch or write: a generation is taken. Words: recursive full name=TEXT
                read: the newest; fsync: wait until it is on disk
    restore     write [GENERATION] and words: daemon stopped clone kill
    period      milliseconds between checkpoints, 0 for none; they start with the first one
    mode        full or delta
    backend     slos (the store's file) or memory
    retain      how many generations to keep, 0 for all; or by age: 1s:60 1m:60 1h:24
    status stats log
                JSON, JSON, one line an event; errors with their reason
    trace       JSON: the stages of the last checkpoints, for ui.perfetto.dev
    generations/N/
                a generation as files; rmdir deletes it; latest is the newest
                diff: what changed since the one before; generations/A..B: between two
                processes/PID/core: gdb PROGRAM core; mem: memory by address
    tags/       ln -s ../generations/3 tags/good: a name; it is kept until rm tags/good
rmdir partitions/N removes a partition; its processes live on.

What is refused comes back as an error of the write; the reason stands in log and status.
checkpoint, status and log can be waited for with poll(2).
"""


def render_readme(_registry: Registry) -> bytes:
    """The text of /README."""
    return README.encode()


def render_status(registry: Registry) -> bytes:
    """The text of /status: JSON."""
    entries = registry.entries()
    state: dict[str, Any] = {
        "pid": os.getpid(),
        "uptime_s": round((time.time_ns() - registry.started_ns) / 1e9, 3),
        "partitions": len(entries),
        "members": sum(len(entry.partition.members()) for entry in entries),
        "last_error": registry.last_error,
        "store": msgspec.to_builtins(registry.store.statistics()),
    }
    return to_json(state)


# StoreStatistics field → kind; a counter's sample ends in _total (OpenMetrics 1.0)
_COUNTERS: Final = frozenset(
    {
        *("commits", "collections", "bytes_moved", "bytes_logical", "bytes_stored"),
        *("pages_written", "pages_shared", "pages_zero"),
    }
)


def render_metrics(registry: Registry) -> bytes:
    """The text of /metrics: OpenMetrics 1.0."""
    lines: list[str] = []
    store: dict[str, Any] = msgspec.to_builtins(registry.store.statistics())
    for field, value in store.items():
        if isinstance(value, int):
            _add_family(lines, f"slfs_store_{field}", field in _COUNTERS, [("", int(value))])
    entries = registry.entries()
    for name, samples in {
        "slfs_partition_members": [
            (entry.oid, len(entry.partition.members())) for entry in entries
        ],
        "slfs_partition_newest_epoch": [(entry.oid, entry.newest()) for entry in entries],
        "slfs_partition_durable_epoch": [
            (entry.oid, entry.store.durable(entry.oid)) for entry in entries
        ],
    }.items():
        _add_family(lines, name, False, [(f'{{oid="{oid}"}}', value) for oid, value in samples])
    return ("\n".join([*lines, "# EOF"]) + "\n").encode()


def _add_family(
    lines: list[str], name: str, is_counter: bool, samples: list[tuple[str, int]]
) -> None:
    lines.append(f"# TYPE {name} {'counter' if is_counter else 'gauge'}")
    suffix = "_total" if is_counter else ""
    lines += [f"{name}{suffix}{labels} {value}" for labels, value in samples]


TOP_FILES: Final[TopFiles] = {
    "README": render_readme,
    "status": render_status,
    "metrics": render_metrics,
}
