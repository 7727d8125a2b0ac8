"""Who waits for a change of a pollable file: poll(2) without FUSE.

A waiter is a callable that wakes one poller; it is called once and dropped. Thread-safe.
"""

import threading
from collections.abc import Callable

Waiter = Callable[[], None]


class Watch:
    """A version that only grows, and those who wait for the next one."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiters: list[Waiter] = []
        self.version = 1

    @property
    def is_watched(self) -> bool:
        return bool(self._waiters)

    def add(self, waiter: Waiter) -> None:
        """Have `waiter` called at the next `advance`."""
        with self._lock:
            self._waiters.append(waiter)

    def advance(self) -> None:
        """A new version is there: wake everyone who waits."""
        with self._lock:
            self.version += 1
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter()
