"""A mounted slfs as objects: partitions, by their control files. Standard library only.

Every refusal is RefusedError, an OSError whose `strerror` is the mount's own reason in words.
Blocking; an object belongs to no thread and keeps nothing open.
"""

import errno
import json
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from libsls import protocol
from libsls.protocol import File

READ_BYTES: Final = 1 << 16


class NoMountError(Exception):
    """No slfs is mounted, or not where it was said to be."""


class RefusedError(OSError):
    """A request that the mount refused. `errno` and `strerror`, the reason in words."""


def find_mount() -> Path:
    """Where slfs is mounted: $SLFS_MOUNT, else the one in the mount table. NoMountError: none, or several."""
    place = os.environ.get(protocol.MOUNT_VARIABLE)
    if place:
        if not (Path(place) / protocol.PARTITIONS).is_dir():
            raise NoMountError(
                f"{place} (from {protocol.MOUNT_VARIABLE}) is no mounted slfs; "
                "mount one with scripts/mount-slfs.sh"
            )
        return Path(place)
    mounts = protocol.parse_mounts(Path("/proc/self/mounts").read_text())
    if not mounts:
        raise NoMountError("no slfs is mounted; mount one with scripts/mount-slfs.sh")
    places = sorted({mount.place for mount in mounts})
    if len(places) > 1:
        raise NoMountError(
            f"several are mounted ({', '.join(map(str, places))}); "
            f"name one in {protocol.MOUNT_VARIABLE}"
        )
    return Path(places[0])


def partitions(mount: Path) -> list["Partition"]:
    """The partitions of a mount that this user may see, by number."""
    names = sorted(int(name) for name in os.listdir(mount / protocol.PARTITIONS))
    found = (Partition(oid, mount) for oid in names)
    return [partition for partition in found if os.access(partition.path, os.R_OK | os.X_OK)]


def statuses(mount: Path) -> list[dict[str, Any]]:
    """`status` of each partition that this user may see, by number; a removed one is left out."""
    found = []
    for oid in sorted(map(int, os.listdir(mount / protocol.PARTITIONS))):
        with suppress(PermissionError, RefusedError):
            found.append(Partition(oid, mount).status())
    return found


class Partition:
    """One partition of a mount."""

    def __init__(self, oid: int, mount: Path | None = None) -> None:
        self.oid = oid
        self.mount = mount or find_mount()
        self.path = self.mount / protocol.PARTITIONS / str(oid)

    # --- the directory ---

    def create(self) -> None:
        """Make the partition. Raises RefusedError (EEXIST, EINVAL, ERANGE)."""
        try:
            self.path.mkdir()
        except FileExistsError as error:
            raise self._refused(error, "exists; choose another oid or remove it") from error

    def delete(self) -> None:
        """Remove the partition and its generations; its processes live on."""
        try:
            self.path.rmdir()
        except FileNotFoundError as error:
            raise self._missing(error) from error

    def delete_generation(self, epoch: int) -> None:
        """Remove one generation. Raises RefusedError (ENOENT; EBUSY: it is tagged)."""
        with self._having(epoch), self._reason(protocol.GENERATIONS):
            self.generation_path(epoch).rmdir()

    @contextmanager
    def _having(self, epoch: int) -> Iterator[None]:
        """Within, what is not found is the generation."""
        if self.exists() and not self.generation_path(epoch).is_dir():
            error = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
            raise self._refused(error, f"has no generation {epoch}; see slsctl ls")
        yield

    def exists(self) -> bool:
        """Whether the partition is there."""
        return self.path.is_dir()

    # --- control files ---

    def read(self, file: File) -> bytes:
        """What a control file reads as. Raises RefusedError."""
        try:
            return _read(self.path / file)
        except FileNotFoundError as error:
            raise self._missing(error) from error

    def write(self, file: File, data: bytes) -> None:
        """One command; returns when its outcome is known. Raises RefusedError."""
        with self._reason(file):
            descriptor = os.open(self.path / file, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, data)
            finally:
                os.close(descriptor)

    @contextmanager
    def _reason(self, file: str) -> Iterator[None]:
        """Turn the errno of what is done within into the reason that the log gives for it."""
        offset = self._log_size()
        try:
            yield
        except FileNotFoundError as error:
            if self.exists():
                raise self._logged(error, file, offset) from error
            raise self._missing(error) from error
        except OSError as error:
            raise self._logged(error, file, offset) from error

    def _log_size(self) -> int:
        try:
            return (self.path / File.LOG).stat().st_size
        except OSError:
            return 0

    def _logged(self, error: OSError, file: str, offset: int) -> RefusedError:
        lines = self._log_from(offset).decode(errors="replace").splitlines()
        reasons = (line.partition(" error: ")[2] for line in reversed(lines))
        reason = next(filter(None, reasons), "") or os.strerror(error.errno or 0)
        return RefusedError(
            error.errno, f"partition {self.oid}: {reason.removeprefix(f'{file}: ')}"
        )

    def _log_from(self, offset: int) -> bytes:
        try:
            with (self.path / File.LOG).open("rb") as log:
                log.seek(offset)
                return log.read()
        except OSError:
            return b""

    def _missing(self, error: OSError) -> RefusedError:
        return self._refused(error, "does not exist; see slsctl partadd")

    def _refused(self, error: OSError, reason: str) -> RefusedError:
        return RefusedError(error.errno, f"partition {self.oid} {reason}")

    # --- members ---

    def members(self) -> list[int]:
        """The pids of the members."""
        return [int(word) for word in self.read(File.ATTACH).split()]

    def attach(self, pids: Sequence[int]) -> None:
        """Take processes in: all or none."""
        self.write(File.ATTACH, protocol.format_pids(pids))

    def detach(self, pids: Sequence[int]) -> None:
        """Let processes go; they live on."""
        self.write(File.DETACH, protocol.format_pids(pids))

    # --- generations ---

    def newest(self) -> int:
        """The newest generation; 0 when there is none."""
        return int(self.read(File.CHECKPOINT))

    def checkpoint(self, command: protocol.Checkpoint | None = None, *, wait: bool = True) -> int:
        """Take a generation and return its number; with `wait`, when it is durable."""
        with self._reason(File.CHECKPOINT):
            descriptor = os.open(self.path / File.CHECKPOINT, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.write(descriptor, protocol.format_checkpoint(command or protocol.Checkpoint()))
                epoch = int(os.pread(descriptor, 64, 0))
                if wait:
                    os.fsync(descriptor)
                return epoch
            finally:
                os.close(descriptor)

    def wait_durable(self) -> int:
        """Wait until the newest generation is durable; returns its number."""
        with self._reason(File.CHECKPOINT):
            descriptor = os.open(self.path / File.CHECKPOINT, os.O_RDWR | os.O_CLOEXEC)
            try:
                epoch = int(os.pread(descriptor, 64, 0))
                os.fsync(descriptor)
                return epoch
            finally:
                os.close(descriptor)

    def restore(self, command: protocol.Restore | None = None) -> protocol.Restored:
        """Bring a generation back; returns which, and the pids."""
        self.write(File.RESTORE, protocol.format_restore(command or protocol.Restore()))
        restored = protocol.parse_restored(self.read(File.RESTORE))
        assert restored is not None
        return restored

    def epochs(self) -> list[int]:
        """The generations there are, ascending."""
        names = os.listdir(self.path / protocol.GENERATIONS)
        return sorted(int(name) for name in names if name.isdecimal())

    def generation_path(self, epoch: int) -> Path:
        """The directory of a generation."""
        return self.path / protocol.GENERATIONS / str(epoch)

    def generation(self, epoch: int) -> dict[str, Any]:
        """A generation's `info`. Raises RefusedError."""
        try:
            return _load(self.generation_path(epoch).joinpath("info").read_bytes())
        except FileNotFoundError as error:
            raise self._refused(error, f"has no generation {epoch}; see slsctl ls") from error

    def difference(self, old: int | None, new: int) -> bytes:
        """What differs between two generations; without `old`, from the parent of `new`. Raises RefusedError."""
        generations = self.path / protocol.GENERATIONS
        place = f"{new}/diff" if old is None else f"{old}..{new}"
        for epoch in (new, old or new):
            with self._having(epoch):
                pass
        with self._reason(protocol.GENERATIONS):
            return (generations / place).read_bytes()

    # --- tags ---

    def tags(self) -> dict[str, int]:
        """Names of generations."""
        place = self.path / protocol.TAGS
        with self._reason(protocol.TAGS):
            links = {name: os.readlink(place / name) for name in sorted(os.listdir(place))}
        return {name: protocol.parse_tag_target(link.encode()) for name, link in links.items()}

    def tag(self, name: str, epoch: int) -> None:
        """Name a generation, which pins it. Raises RefusedError (EEXIST, ENOENT, EINVAL)."""
        with self._reason(protocol.TAGS):
            os.symlink(f"../{protocol.GENERATIONS}/{epoch}", self.path / protocol.TAGS / name)

    def remove_tag(self, name: str) -> None:
        """Take a name away. Raises RefusedError (ENOENT)."""
        with self._reason(protocol.TAGS):
            (self.path / protocol.TAGS / name).unlink()

    # --- state ---

    def status(self) -> dict[str, Any]:
        """The partition's `status`."""
        return _load(self.read(File.STATUS))

    def statistics(self) -> dict[str, Any]:
        """The partition's `stats`."""
        return _load(self.read(File.STATS))

    def trace(self) -> bytes:
        """The stages of the last checkpoints: JSON trace events."""
        return self.read(File.TRACE)


def _read(path: Path) -> bytes:
    """A text that has no size, with as few requests to the daemon as there can be."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        pieces = []
        while piece := os.read(descriptor, READ_BYTES):
            pieces.append(piece)
        return b"".join(pieces)
    finally:
        os.close(descriptor)


def _load(data: bytes) -> dict[str, Any]:
    value = json.loads(data)
    assert isinstance(value, dict)
    return value
