"""What an open store does beside its callers: syncing, checkpoints, collection.

One thread, woken by commits and deletions. It gives way: between steps of collection it sleeps
as long as commits keep coming in.
"""

from threading import Event, Thread

from slos import lifecycle
from slos.core import Core
from slos.errors import SlosError


class Maintenance:
    """The maintenance of one store."""

    def __init__(self, core: Core, *, background: bool):
        self._core = core
        self._wake = Event()
        self._stopping = False
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
        core.wait_durable(core.log.written_lsn)
        if core.log.records > lifecycle.CHECKPOINT_RECORDS:
            lifecycle.checkpoint(core)

    def collect(self) -> None:
        """Collect until there is nothing worth collecting."""
        while self.collect_step():
            pass

    def collect_step(self) -> bool:
        """One bounded step of collection."""
        return False
