"""What an open store does beside its callers: syncing, checkpoints, collection.

One thread, woken by commits and deletions. It gives way: between steps of collection it sleeps
as long as commits keep coming in, starts none while one is under way, and leaves it to them to sync
what was moved. It is not made nicer than they are: it holds the interpreter lock and the log's in
turn with them, and who is not run cannot let go.
"""

import time
from collections.abc import Iterator
from threading import Event, Lock, Thread

from slos import gc, lifecycle
from slos.core import Core
from slos.errors import SlosError

_BUSY_SECONDS = 0.1
_GIVE_WAY = 16
_LONGEST_COMMIT_SECONDS = 0.02


class Maintenance:
    """The maintenance of one store."""

    def __init__(self, core: Core, *, background: bool):
        self._core = core
        self._wake = Event()
        self._stopping = False
        self._collecting = Lock()
        self._steps: Iterator[None] | None = None
        self._busy_until = 0.0
        # Something was committed that nobody waits for.
        self._unsynced = False
        self._thread: Thread | None = None
        if background and not core.read_only:
            self._thread = Thread(target=self._run, name="slos-maintenance", daemon=True)
            self._thread.start()

    def committed(self, durable: bool) -> None:
        """A transaction was committed."""
        if self._thread is None:
            if self._core.log.records > lifecycle.CHECKPOINT_RECORDS:
                lifecycle.checkpoint(self._core)
        elif not durable or self._core.log.records > lifecycle.CHECKPOINT_RECORDS:
            self._unsynced = self._unsynced or not durable
            self._wake.set()

    def wake(self) -> None:
        """There is something to sync or to collect."""
        self._wake.set()

    def stop(self) -> None:
        """End the thread."""
        self._stopping = True
        self._wake.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait()
            self._wake.clear()
            try:
                self._turn()
            except SlosError as error:
                with self._core.lock:
                    self._core.counts.last_error = str(error)

    def _turn(self) -> None:
        core = self._core
        if core.log.failure is not None:
            return
        self._sync()
        if core.log.records > lifecycle.CHECKPOINT_RECORDS:
            lifecycle.checkpoint(core)
        if gc.wanted(core):
            self._collect_gently()

    def _sync(self) -> None:
        self._unsynced = False
        self._core.wait_durable(self._core.log.written_lsn)

    def _collect_gently(self) -> None:
        """A cycle that leaves most of the time to commits, while there are any."""
        core = self._core
        while not self._stopping:
            core.wait_idle(_LONGEST_COMMIT_SECONDS)
            commits, began = core.counts.commits, time.monotonic()
            if not self.collect_step():
                break
            if core.counts.commits != commits or self._busy_until > began:
                if core.counts.commits != commits:
                    self._busy_until = began + _BUSY_SECONDS
                self._pause(min(_GIVE_WAY * (time.monotonic() - began), _BUSY_SECONDS))
            if self._unsynced:
                self._sync()
        # What woke it during a pause may have been a deletion.
        self._wake.set()

    def _pause(self, seconds: float) -> None:
        """Sleep; what is committed meanwhile is synced at once."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            if self._wake.wait(left):
                self._wake.clear()
                if self._unsynced:
                    self._sync()

    def collect(self) -> None:
        """Do a whole cycle."""
        while self.collect_step():
            pass

    def collect_step(self) -> bool:
        """One bounded step of a cycle; False when the cycle is done."""
        with self._collecting:
            if self._steps is None:
                self._core.check_writable()
                self._steps = gc.Cycle(self._core).steps()
            try:
                next(self._steps)
            except StopIteration:
                self._steps = None
                return False
            except BaseException:
                self._steps = None
                raise
            return True
