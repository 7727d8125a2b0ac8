"""A thread of the mount that writes trees to the store behind their users.

What is older than two seconds is written, though not waited for; so is what has grown large.
"""

import logging
import threading
import time
from collections.abc import Mapping
from typing import Final

from slfs.files.snapshot import LiveFiles
from slos.errors import SlosError

logger = logging.getLogger("slfs")

FLUSH_SECONDS: Final = 2.0
SWEEP_SECONDS: Final = 60.0


class Flusher:
    """Writes trees to the store behind their users: a thread of the mount."""

    def __init__(self, live: Mapping[int, LiveFiles]) -> None:
        self._live = live
        self._wake = threading.Event()
        self._is_ending = False
        self._thread = threading.Thread(target=self._run, name="slfs-flusher", daemon=True)
        self._thread.start()

    def hurry(self) -> None:
        """There is much to write."""
        self._wake.set()

    def stop(self) -> None:
        """End, after what is under way."""
        self._is_ending = True
        self._wake.set()
        self._thread.join()

    def _run(self) -> None:
        swept = time.monotonic()
        while not self._is_ending:
            self._wake.wait(FLUSH_SECONDS)
            self._wake.clear()
            is_due = time.monotonic() > swept + SWEEP_SECONDS
            for files in list(self._live.values()):
                self._flush(files, sweep=is_due)
            if is_due:
                swept = time.monotonic()

    def _flush(self, files: LiveFiles, *, sweep: bool) -> None:
        try:
            files.flush()
            if sweep:
                files.sweep()
        except (SlosError, OSError) as error:
            logger.error("files of partition %d: %s", files.oid, error)
