"""A partition without processes being touched: the contract of docs/design.md, for tests of the mount.

Members are real pids that are only looked at; a generation holds their numbers; a restore tells them.
`SLS_FAKE_DELAY` makes a checkpoint take so many seconds.
"""

import errno
import os
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from slfs.contract import (
    CheckpointOutcome,
    CheckpointRequest,
    Event,
    RestoreOutcome,
    RestoreRequest,
    Settings,
)
from slos.store import Store
from sls.errors import PartitionStateError


class FakeStatus(msgspec.Struct, frozen=True):
    """What the fake knows of itself."""

    state: str
    exits: dict[int, int]


class FakeStatistics(msgspec.Struct, frozen=True):
    """What the fake counts."""

    checkpoints: int


class FakePartition:
    """A LivePartition."""

    def __init__(
        self, oid: int, store: Store, settings: Settings, on_event: Callable[[Event], None]
    ) -> None:
        self.oid = oid
        self.settings = settings
        self._store = store
        self._on_event = on_event
        self._lock = threading.Lock()
        self._members: tuple[int, ...] = ()
        self._checkpoints = 0

    def attach(self, pids: Sequence[int]) -> None:
        with self._lock:
            for pid in pids:
                if not Path(f"/proc/{pid}").exists():
                    raise PartitionStateError(f"pid {pid} does not exist", errno.ESRCH)
            self._members += tuple(pids)

    def detach(self, pids: Sequence[int]) -> None:
        with self._lock:
            self._members = tuple(pid for pid in self._members if pid not in pids)

    def members(self) -> tuple[int, ...]:
        return tuple(pid for pid in self._members if Path(f"/proc/{pid}").exists())

    def configure(self, settings: Settings) -> None:
        self.settings = settings

    def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        with self._lock:
            members = self.members()
            if not members:
                raise PartitionStateError("the partition has no members; attach some", errno.ESRCH)
            time.sleep(float(os.environ.get("SLS_FAKE_DELAY", "0")))
            with self._store.begin(self.oid) as transaction:
                transaction.put(0, msgspec.json.encode(members))
                info = transaction.commit(wait=False, name=request.name)
            self._store.retain(self.oid, self.settings.retain)
            self._checkpoints += 1
            self._on_event(
                Event(time.time_ns(), "info", f"generation {info.epoch} taken", info.epoch)
            )
            return CheckpointOutcome(info.epoch, 1_000_000, 2_000_000)

    def restore(self, request: RestoreRequest) -> RestoreOutcome:
        with self._lock:
            epoch = request.generation or self._store.newest(self.oid)
            if epoch is None:
                raise PartitionStateError("no generation yet; take a checkpoint", errno.ENOENT)
            data = self._store.read(self.oid, epoch, 0)
            return RestoreOutcome(epoch, tuple(msgspec.json.decode(data)))

    def status(self) -> FakeStatus:
        return FakeStatus("running" if self.members() else "empty", {})

    def statistics(self) -> FakeStatistics:
        return FakeStatistics(self._checkpoints)

    def close(self) -> None:
        self._members = ()
