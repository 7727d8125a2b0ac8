"""The seam to live processes, as slfs uses it: what a partition takes and gives.

Matches docs/design.md; `sls.partition.Partition` satisfies `LivePartition`.
"""

from collections.abc import Callable, Sequence
from enum import StrEnum
from typing import Protocol

import msgspec

from slos.store import Store


class Mode(StrEnum):
    """What a periodic checkpoint keeps."""

    FULL = "full"
    DELTA = "delta"


class Backend(StrEnum):
    """Where generations live."""

    SLOS = "slos"
    MEMORY = "memory"


class Settings(msgspec.Struct, frozen=True):
    """What a user may set on a partition."""

    period_ms: int = 0
    mode: Mode = Mode.DELTA
    backend: Backend = Backend.SLOS
    retain: int = 0


class CheckpointRequest(msgspec.Struct, frozen=True):
    """How to take a generation."""

    recursive: bool = False
    full: bool = False
    name: str = ""


class CheckpointOutcome(msgspec.Struct, frozen=True):
    """The generation taken and what it cost."""

    epoch: int
    stop_ns: int
    total_ns: int


class RestoreRequest(msgspec.Struct, frozen=True):
    """How to bring a generation back; `generation` None is the newest."""

    generation: int | None = None
    daemon: bool = False
    stopped: bool = False
    clone: bool = False
    kill: bool = False
    terminal_pid: int = 0


class RestoreOutcome(msgspec.Struct, frozen=True):
    """What was brought back."""

    generation: int
    pids: tuple[int, ...]


class Event(msgspec.Struct, frozen=True):
    """Something that happened to a partition, in words."""

    time_ns: int
    level: str
    text: str
    epoch: int = 0


class LivePartition(Protocol):
    """A group of live processes. Synchronous and thread-safe."""

    settings: Settings

    def attach(self, pids: Sequence[int]) -> None: ...

    def detach(self, pids: Sequence[int]) -> None: ...

    def members(self) -> tuple[int, ...]: ...

    def configure(self, settings: Settings) -> None: ...

    def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome: ...

    def restore(self, request: RestoreRequest) -> RestoreOutcome: ...

    def status(self) -> msgspec.Struct: ...

    def statistics(self) -> msgspec.Struct: ...

    def close(self) -> None: ...


PartitionFactory = Callable[[int, Store, Settings, Callable[[Event], None]], LivePartition]
