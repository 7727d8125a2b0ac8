"""The text of a `log` file: one line an event, the oldest half dropped when it grows too long.

Knows no partition. Thread-safe.
"""

import threading
from datetime import UTC, datetime
from typing import Final

from slfs.watch import Watch

MAX_BYTES: Final = 1 << 20


class Journal:
    """Lines of events, readable at any byte offset."""

    def __init__(self, *, max_bytes: int = MAX_BYTES) -> None:
        self._lock = threading.Lock()
        self._max_bytes = max_bytes
        self._text = bytearray()
        self.watch = Watch()

    def add(self, time_ns: int, level: str, text: str) -> None:
        """Append one line; line breaks in `text` are folded."""
        line = f"{format_time(time_ns)} {level}: {' '.join(text.split())}\n".encode()
        with self._lock:
            self._text += line
            if len(self._text) > self._max_bytes:
                cut = self._text.find(b"\n", len(self._text) - self._max_bytes // 2)
                del self._text[: cut + 1]
        self.watch.advance()

    def size(self) -> int:
        """Bytes that can be read now."""
        return len(self._text)

    def read(self, offset: int, size: int) -> bytes:
        """Bytes from `offset`; short at the end."""
        with self._lock:
            return bytes(self._text[offset : offset + size])


def format_time(time_ns: int) -> str:
    """UTC, to the microsecond."""
    moment = datetime.fromtimestamp(time_ns // 10**9, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{time_ns % 10**9 // 1000:06d}Z"
