"""Before a mount: is the place fit, is the store free.

Errors are MountError and SlosError, before anything is changed. Runs before the event loop.
"""

import errno
import os
import subprocess
import time
from pathlib import Path
from typing import Final

from libsls import protocol
from slfs.errors import MountError
from slfs.options import MountRequest
from slos.errors import StoreBusyError
from slos.objstore import ObjectStore

# A daemon that was just unmounted still writes what it had accepted.
CLOSING_SECONDS: Final = 30.0
RETRY_SECONDS: Final = 0.05
# What every access to a mount gives whose daemon was killed (fs/fuse/dev.c, fuse_abort_conn).
DEAD_ERRNOS: Final = (errno.ENOTCONN, errno.ECONNABORTED)


def mounted() -> list[protocol.Mount]:
    """Every slfs in this process's mount namespace."""
    return protocol.parse_mounts(Path("/proc/self/mounts").read_text())


def check_mountpoint(mountpoint: Path) -> None:
    """The place is a directory without a live slfs on it. A dead mount's remains are taken away.

    Raises MountError: ENOENT, ENOTDIR, EBUSY.
    """
    try:
        is_directory = mountpoint.is_dir()
        os.statvfs(mountpoint)  # asks the daemon, where stat(2) may answer from what it once said
    except FileNotFoundError as error:
        raise MountError(f"{mountpoint} does not exist; make it first", errno.ENOENT) from error
    except OSError as error:
        if error.errno not in DEAD_ERRNOS:
            raise MountError(f"{mountpoint}: {error.strerror}", error.errno or errno.EIO) from error
        _detach_dead_mount(mountpoint)
        is_directory = mountpoint.is_dir()
    if not is_directory:
        raise MountError(f"{mountpoint} is not a directory; choose one", errno.ENOTDIR)
    if str(mountpoint.resolve()) in (mount.place for mount in mounted()):
        raise MountError(
            f"{mountpoint} is a mounted slfs; unmount it or choose another place", errno.EBUSY
        )


def _detach_dead_mount(mountpoint: Path) -> None:
    """Unmount what a killed daemon left behind."""
    subprocess.run(["umount", "--lazy", str(mountpoint)], check=False, stderr=subprocess.DEVNULL)


def open_store(request: MountRequest) -> ObjectStore:
    """The store, made when there is none. Raises MountError (EBUSY), SlosError."""
    if not request.store.exists():
        if not request.store.parent.is_dir():
            raise MountError(f"{request.store.parent} does not exist; make it first", errno.ENOENT)
        ObjectStore.create(request.store)
    deadline = time.monotonic() + CLOSING_SECONDS
    while True:
        try:
            return ObjectStore.open(request.store, read_only=request.is_read_only)
        except StoreBusyError as error:
            place = _place_of(request.store)
            if place is not None:
                raise MountError(
                    f"{request.store} is mounted on {place}; use that mount, or unmount it first",
                    errno.EBUSY,
                ) from error
            if time.monotonic() > deadline:
                raise
        time.sleep(RETRY_SECONDS)


def _place_of(store: Path) -> str | None:
    return next((mount.place for mount in mounted() if mount.store == str(store)), None)
