"""The partitions of a mount: which there are, their settings in the store, their logs.

Knows no FUSE and no file names. Every method may be called from any thread; those that touch the
store block.
"""

import errno
import itertools
import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import trio

from libsls.protocol import Restored
from slfs.contract import LivePartition, PartitionFactory
from slfs.errors import EXPECTED_ERRORS, RefusedError
from slfs.files.snapshot import LiveFiles
from slfs.journal import Journal
from slfs.watch import Watch
from slos.errors import SlosError
from slos.memstore import MemoryStore
from slos.store import Store
from sls.filetree import files_epoch
from sls.requests import Backend, Event, Settings


class Closing(Protocol):
    """What is closed at the end."""

    def close(self) -> None: ...


_serials = itertools.count(1)


@dataclass(frozen=True)
class Owner:
    """Whose a partition is."""

    uid: int
    gid: int


class Properties(msgspec.Struct, frozen=True, kw_only=True):
    """What the store keeps of a partition beside its generations."""

    uid: int = 0
    gid: int = 0
    created_ns: int = 0
    settings: Settings = Settings()
    tags: dict[str, int] = {}  # name → epoch; msgspec copies it


class Entry:
    """One partition of the mount.

    `serial` tells two partitions apart that bore the same oid one after the other. `turn` orders
    the commands on it; it is taken in the event loop only.
    """

    def __init__(
        self,
        oid: int,
        store: Store,
        properties: Properties,
        make_partition: PartitionFactory,
    ) -> None:
        self.oid = oid
        self.serial = next(_serials)
        self.properties = properties
        self.owner = Owner(properties.uid, properties.gid)
        self.journal = Journal()
        self.epoch_watch = Watch()
        self.status_watch = Watch()
        self.last_error = ""
        self.events = 0
        self.changed_ns = time.time_ns()
        self.last_restore: Restored | None = None
        self.is_deleted = False
        self.turn = trio.Lock()
        self.busy = ""  # the command under way
        self._properties_lock = threading.Lock()
        self._durable_store = store
        self._make_partition = make_partition
        self.store: Store
        self.partition: LivePartition
        self.files = LiveFiles(store, oid, (properties.uid, properties.gid), self._file_epochs)
        self._open(properties.settings)
        self._load_tags()

    def _file_epochs(self) -> list[int]:
        return [files_epoch(info) for info in self.store.generations(self.oid)]

    def _open(self, settings: Settings) -> None:
        self.store = self._durable_store
        if settings.backend is Backend.MEMORY:
            self.store = MemoryStore()
            self.store.create_partition(self.oid)
        self.partition = self._make_partition(self.oid, self.store, settings, self.take_event)
        self.partition.files = self.files

    @property
    def settings(self) -> Settings:
        return self.properties.settings

    def newest(self) -> int:
        """The newest epoch; 0 when there is none."""
        return self.store.newest(self.oid) or 0

    def configure(self, settings: Settings) -> None:
        """Make settings valid, in the store and in the partition. RefusedError (EBUSY), SlosError: nothing changed."""
        has_moved = settings.backend is not self.settings.backend
        if has_moved:
            self._refuse_to_move()
        with self._properties_lock:
            self._keep(msgspec.structs.replace(self.properties, settings=settings))
        if has_moved:
            self.partition.close()
            self._open(settings)
        else:
            self.partition.configure(settings)
        self.status_watch.advance()

    def _keep(self, properties: Properties) -> None:
        """Make properties valid and durable. Under the lock."""
        self._durable_store.set_properties(self.oid, msgspec.json.encode(properties))
        self.properties = properties

    def _refuse_to_move(self) -> None:
        if self.partition.members() or self.newest():
            raise RefusedError(
                f"partition {self.oid} has members or generations in its backend; "
                "choose the backend right after creating the partition",
                errno.EBUSY,
            )

    # --- tags ---

    @property
    def tags(self) -> dict[str, int]:
        """Names of generations; do not change it."""
        return self.properties.tags

    def _load_tags(self) -> None:
        """Pin what is tagged. A store in memory has lost its generations, and with them their tags."""
        known = {info.epoch for info in self.store.generations(self.oid)}
        tags = {name: epoch for name, epoch in self.tags.items() if epoch in known}
        self.properties = msgspec.structs.replace(self.properties, tags=tags)
        self.partition.pin(frozenset(tags.values()))

    def change_tags(self, change: Callable[[dict[str, int]], dict[str, int]]) -> None:
        """Replace the tags by what `change` makes of them, durably; it may refuse by raising.

        Raises ObjectNotFoundError for a tag of a generation that is not there; then nothing has changed.
        """
        with self._properties_lock:
            tags = change(dict(self.tags))
            self.partition.pin(frozenset(tags.values()))
            try:
                for epoch in set(tags.values()):
                    self.store.generation(self.oid, epoch)
                self._keep(msgspec.structs.replace(self.properties, tags=tags))
            except SlosError:
                self.partition.pin(frozenset(self.tags.values()))
                raise
        self.changed_ns = time.time_ns()

    def delete_generation(self, epoch: int) -> None:
        """Remove a generation. Raises RefusedError (EBUSY) for a tagged one, SlosError."""
        with self._properties_lock:
            names = sorted(name for name, tagged in self.tags.items() if tagged == epoch)
            if names:
                raise RefusedError(
                    f"generation {epoch} is tagged {names[0]}; remove tags/{names[0]} first",
                    errno.EBUSY,
                )
            self.partition.delete_generation(epoch)
        self.changed_ns = time.time_ns()

    def take_event(self, event: Event) -> None:
        """Write an event of the partition into the log; wake whom it concerns."""
        self.events += 1
        self.changed_ns = event.time_ns
        self.journal.add(event.time_ns, event.level, event.text)
        if event.level == "error":
            self.last_error = event.text
        if event.epoch:
            self.epoch_watch.advance()
        self.status_watch.advance()

    def note(self, text: str) -> None:
        """Log something that went as asked."""
        self.take_event(Event(time.time_ns(), "info", text))

    def note_error(self, text: str, *, since: int) -> None:
        """Log why something failed, unless the partition said so itself after event `since`."""
        if self.events == since or self.last_error != text:
            self.take_event(Event(time.time_ns(), "error", text))

    def close(self) -> None:
        """Let the members go; what is under way is finished first."""
        self.partition.close()
        if not self.is_deleted:
            self.files.close()
        if self.store is not self._durable_store:
            self.store.close()


class Registry:
    """All partitions of one store."""

    def __init__(
        self, store: Store, make_partition: PartitionFactory, place: Path | None = None
    ) -> None:
        self.store = store
        self._place = place
        self.last_error = ""
        self.started_ns = time.time_ns()
        self._make_partition = make_partition
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        for oid in store.partitions():
            properties = _decode_properties(store.properties(oid))
            self._entries[oid] = Entry(oid, store, properties, make_partition)

    def room_bytes(self) -> int:
        """How much the file system under the store has left for it."""
        if self._place is None:
            return 0
        found = os.statvfs(self._place)
        return found.f_bavail * found.f_frsize

    def oids(self) -> list[int]:
        """The numbers of all partitions, ascending."""
        return sorted(self._entries)

    def entries(self) -> list[Entry]:
        """All partitions, by number."""
        with self._lock:
            return [self._entries[oid] for oid in sorted(self._entries)]

    def get(self, oid: int) -> Entry | None:
        """The partition of that number, if there is one."""
        return self._entries.get(oid)

    def create(self, oid: int, owner: Owner) -> Entry:
        """A new partition, durable on return. Raises RefusedError (EEXIST), SlosError."""
        properties = Properties(uid=owner.uid, gid=owner.gid, created_ns=time.time_ns())
        with self._lock:
            if oid in self._entries:
                raise RefusedError(
                    f"partition {oid} exists; choose another oid or remove it", errno.EEXIST
                )
            self.store.create_partition(oid, msgspec.json.encode(properties))
            entry = Entry(oid, self.store, properties, self._make_partition)
            self._entries[oid] = entry
        entry.note(f"partition {oid} created")
        return entry

    def delete(self, entry: Entry) -> None:
        """Remove a partition with its generations; its processes live on."""
        with self._lock:
            if self._entries.pop(entry.oid, None) is None:
                return
            entry.is_deleted = True
            entry.close()
            entry.files.remove()
            self.store.delete_partition(entry.oid)
        for watch in (entry.epoch_watch, entry.status_watch, entry.journal.watch):
            watch.advance()

    def close(self) -> list[str]:
        """Close every partition, then the store; what went wrong, in words."""
        failures = []
        closings: list[Closing] = [*self.entries(), self.store]
        for closing in closings:
            try:
                closing.close()
            except EXPECTED_ERRORS as error:
                failures.append(str(error))
        return failures


def _decode_properties(data: bytes) -> Properties:
    return msgspec.json.decode(data, type=Properties) if data else Properties()
