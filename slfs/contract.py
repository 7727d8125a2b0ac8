"""The seam to live processes: what the mount needs of a partition.

`sls.partition.Partition` satisfies `LivePartition`; so does the fake of the tests.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from slos.store import Store
from sls.filetree import FileTree
from sls.requests import (
    CheckpointOutcome,
    CheckpointRequest,
    Event,
    PartitionStatistics,
    PartitionStatus,
    RestoreOutcome,
    RestoreRequest,
    Settings,
)


class LivePartition(Protocol):
    """A group of live processes. Synchronous and thread-safe.

    `members`, `status`, `statistics` and `timeline` never wait for a capture. Errors are SlsError and SlosError.
    `files` is the tree that its checkpoints keep and its restores roll back.
    """

    files: FileTree | None

    def attach(self, pids: Sequence[int]) -> None: ...

    def detach(self, pids: Sequence[int]) -> None: ...

    def members(self) -> tuple[int, ...]: ...

    def pin(self, epochs: frozenset[int]) -> None:
        """These generations, and no others, are left alone by retention from the return on."""
        ...

    def delete_generation(self, epoch: int) -> None:
        """Waits for no capture. Raises SlosError."""
        ...

    def configure(self, settings: Settings) -> None: ...

    def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome: ...

    def restore(self, request: RestoreRequest) -> RestoreOutcome: ...

    def status(self) -> PartitionStatus: ...

    def statistics(self) -> PartitionStatistics: ...

    def timeline(self) -> dict[str, Any]:
        """The last checkpoints as a trace viewer reads them: JSON values."""
        ...

    def close(self) -> None: ...


PartitionFactory = Callable[[int, Store, Settings, Callable[[Event], None]], LivePartition]
