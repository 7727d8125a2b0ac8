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
from typing import Any

from slos.store import Store
from sls.errors import PartitionStateError
from sls.filetree import FileTree
from sls.image import MANIFEST_OBJECT, Image, ProcessImage, decode, encode
from sls.requests import (
    CheckpointOutcome,
    CheckpointRequest,
    Event,
    PartitionStatistics,
    PartitionStatus,
    Percentiles,
    RestoreOutcome,
    RestoreRequest,
    Settings,
)
from sls.resources import Loss

_holders: dict[int, int] = {}


def _image(members: Sequence[int]) -> Image:
    """An image of zombies: pids and nothing else."""
    processes = tuple(
        ProcessImage(pid=pid, ppid=1, pgid=pid, sid=pid, comm=b"fake", exit_status=0)
        for pid in members
    )
    return Image(
        time_ns=time.time_ns(),
        boot_id="",
        kernel="",
        processes=processes,
        files=(),
        losses=(Loss(pid=members[0], resource="everything", detail="it is a fake"),),
    )


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
        self._pinned: frozenset[int] = frozenset()
        self.files: FileTree | None = None

    def attach(self, pids: Sequence[int]) -> None:
        with self._lock:
            for pid in pids:
                if not Path(f"/proc/{pid}").exists():
                    raise PartitionStateError(f"pid {pid} does not exist", errno.ESRCH)
                if pid in _holders:
                    raise PartitionStateError(
                        f"pid {pid} is in partition {_holders[pid]} already", errno.EBUSY
                    )
            _holders.update(dict.fromkeys(pids, self.oid))
            self._members += tuple(pids)

    def detach(self, pids: Sequence[int]) -> None:
        with self._lock:
            if not set(pids) <= set(self._members):
                raise PartitionStateError(f"{pids} are no members", errno.ESRCH)
            self._members = tuple(pid for pid in self._members if pid not in pids)

    def members(self) -> tuple[int, ...]:
        return tuple(pid for pid in self._members if Path(f"/proc/{pid}").exists())

    def pin(self, epochs: frozenset[int]) -> None:
        self._pinned = epochs

    def delete_generation(self, epoch: int) -> None:
        self._store.delete_generation(self.oid, epoch)

    def configure(self, settings: Settings) -> None:
        self.settings = settings

    def checkpoint(self, request: CheckpointRequest) -> CheckpointOutcome:
        with self._lock:
            members = self.members()
            if not members:
                raise PartitionStateError("the partition has no members; attach some", errno.ESRCH)
            time.sleep(float(os.environ.get("SLS_FAKE_DELAY", "0")))
            with self._store.begin(self.oid) as transaction:
                transaction.put(MANIFEST_OBJECT, encode(_image(members)))
                info = transaction.commit(wait=False, name=request.name)
            self._store.retain(self.oid, self.settings.retain, self._pinned)
            if self.settings.thin:
                self._store.thin(self.oid, self.settings.thin, self._pinned)
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
            image = decode(self._store.read(self.oid, epoch, MANIFEST_OBJECT))
            return RestoreOutcome(epoch, tuple(one.pid for one in image.processes))

    def status(self) -> PartitionStatus:
        members = self.members()
        return PartitionStatus(
            state="running" if members else "empty",
            members=members,
            newest=self._store.newest(self.oid) or 0,
            last_error="",
            last_restore=None,
            exits={},
        )

    def statistics(self) -> PartitionStatistics:
        return PartitionStatistics(
            checkpoints=self._checkpoints,
            failed=0,
            missed=0,
            stop_ns=Percentiles(),
            total_ns=Percentiles(),
            lag_ns=Percentiles(),
            stages_ns={},
            pages_each=Percentiles(),
            pages=0,
            bytes_copied=0,
        )

    def timeline(self) -> dict[str, Any]:
        return {"displayTimeUnit": "ms", "traceEvents": []}

    def close(self) -> None:
        self._members = ()
