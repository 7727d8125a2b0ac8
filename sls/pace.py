"""How often something slow is looked at again: so that it takes no more than its share of the time.

Knows neither what is looked at nor what it takes. Single-threaded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

_SHARE: Final = 100  # a look may take one part in so many of the time


class Pace:
    """Of one look that is made again and again."""

    def __init__(self) -> None:
        self._due_ns = 0

    def is_due(self) -> bool:
        """Whether the last look, the slower the longer, is far enough in the past."""
        return time.monotonic_ns() >= self._due_ns

    @contextmanager
    def looking(self) -> Iterator[None]:
        """The look is made in this block, and timed."""
        start_ns = time.monotonic_ns()
        try:
            yield
        finally:
            now_ns = time.monotonic_ns()
            self._due_ns = now_ns + (now_ns - start_ns) * (_SHARE - 1)
