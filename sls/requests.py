"""What people ask of a partition, and what it answers: plain records, shared by every layer above."""

from enum import StrEnum

import msgspec


class Mode(StrEnum):
    """What a checkpoint copies: everything, or what changed since the one before."""

    FULL = "full"
    DELTA = "delta"


class Backend(StrEnum):
    """Where generations live."""

    SLOS = "slos"
    MEMORY = "memory"


class Settings(msgspec.Struct, frozen=True):
    """What a user may set. `period_ms` 0: one-off checkpoints. `retain` 0: keep all generations.

    `thin`: which to keep by their age, as `slos.retention` reads it; empty: all.
    """

    period_ms: int = 0
    mode: Mode = Mode.DELTA
    backend: Backend = Backend.SLOS
    retain: int = 0
    thin: str = ""


class CheckpointRequest(msgspec.Struct, frozen=True):
    """How to take a generation. `recursive`: descendants of members become members for good.

    `kill`: the members do nothing after it; they end when it is durable.
    """

    recursive: bool = False
    full: bool = False
    kill: bool = False
    name: str = ""


class CheckpointOutcome(msgspec.Struct, frozen=True):
    """The generation and what it cost; `stop_ns` is how long the members stood still."""

    epoch: int
    stop_ns: int
    total_ns: int


class RestoreRequest(msgspec.Struct, frozen=True):
    """How to bring a generation back; None is the newest. `terminal_pid`: whose descriptors 0, 1, 2 stand in.

    `uid`, `gid`: with whose rights its files are opened.
    """

    generation: int | None = None
    daemon: bool = False
    stopped: bool = False
    clone: bool = False
    kill: bool = False
    terminal_pid: int = 0
    uid: int = 0
    gid: int = 0


class RestoreOutcome(msgspec.Struct, frozen=True):
    """What came back; `pids`: parents before children."""

    generation: int
    pids: tuple[int, ...]


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a partition, in words."""

    time_ns: int
    level: str
    text: str
    epoch: int = 0


class LastRestore(msgspec.Struct, frozen=True):
    """The restore before now. `notes`: what came back in another form, a line each."""

    generation: int
    pids: tuple[int, ...]
    total_ns: int
    stages_ns: dict[str, int]
    notes: tuple[str, ...] = ()


class PartitionStatus(msgspec.Struct, frozen=True):
    """State of a partition. `exits`: wait(2) statuses of restored processes that have ended since."""

    state: str
    members: tuple[int, ...]
    newest: int
    last_error: str
    last_restore: LastRestore | None
    exits: dict[int, int]


class Percentiles(msgspec.Struct, frozen=True):
    """Of the last 1,000 checkpoints; zeros when there is none."""

    p50: int = 0
    p90: int = 0
    p99: int = 0
    max: int = 0


class PartitionStatistics(msgspec.Struct, frozen=True):
    """Counters since the partition was opened, and percentiles of the last checkpoints.

    `missed`: periods without a checkpoint. `stop_ns`: the members stood still. `total_ns`: from the start of the
    capture until the generation existed; `lag_ns`: until it was durable. `pages_each`: pages copied in one checkpoint.
    """

    checkpoints: int
    failed: int
    missed: int
    stop_ns: Percentiles
    total_ns: Percentiles
    lag_ns: Percentiles
    stages_ns: dict[str, Percentiles]
    pages_each: Percentiles
    pages: int
    bytes_copied: int
