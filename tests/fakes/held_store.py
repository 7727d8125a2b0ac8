"""A store that holds up whoever begins a generation in it, until the test lets go."""

import threading

from slos.memstore import MemoryStore, MemoryTransaction

HOLD_SECONDS = 60.0


class HeldStore(MemoryStore):
    """In memory; nothing is held until `hold`."""

    def __init__(self) -> None:
        super().__init__()
        self._is_held = False
        self.is_reached = threading.Event()
        self._is_let_go = threading.Event()

    def hold(self) -> None:
        """From now on, who begins a generation waits, and `is_reached` is set."""
        self._is_held = True

    def let_go(self) -> None:
        """Who waits goes on, and nobody waits any more."""
        self._is_held = False
        self._is_let_go.set()

    def begin(self, oid: int, *, parent: int | None = None) -> MemoryTransaction:
        if self._is_held:
            self.is_reached.set()
            assert self._is_let_go.wait(HOLD_SECONDS), "nobody let go"
        return super().begin(oid, parent=parent)
