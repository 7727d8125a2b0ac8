"""A dry run just before a capture is due: what the stop needs comes into the processor's caches before it, not in it.

Between two captures others use the caches, and a stop then takes twice as long as one that follows another at once.
So a millisecond before it is due a process of our own, which does nothing, is captured, and thrown away; and of the
members is read what may be read while they run. It costs as much as a capture, and is left out where no processor is
idle. Single-threaded.
"""

import subprocess
from contextlib import suppress
from typing import Final

from sls import proc
from sls.capture import Tracer
from sls.errors import SlsError

AHEAD_NS: Final = 1_500_000  # how long before the capture it begins
_LEAST_PERIOD_MS: Final = 5


class WarmUp:
    """Dry runs of one tracer's process."""

    def __init__(self) -> None:
        self._tracer = Tracer()
        self._stand_in: subprocess.Popen[bytes] | None = None

    def is_worth_it(self, period_ms: int) -> bool:
        """Whether there is time for it, and a processor that has nothing else to do."""
        return period_ms >= _LEAST_PERIOD_MS and proc.has_idle_processor()

    def run(self, tracer: Tracer) -> None:
        """Capture the stand-in, and read what is read of the tracer's members. What fails here matters to nobody."""
        if self._stand_in is None:
            self._stand_in = _start()
        pid = self._stand_in.pid
        with suppress(SlsError, OSError):
            self._tracer.capture(lambda: [pid], full=False, track=True, stay=True)
        tracer.warm_up()

    def end(self) -> None:
        """No capture is due: the stand-in goes."""
        if self._stand_in is not None:
            self._stand_in.kill()
            self._stand_in.communicate()
            self._stand_in = None
            self._tracer.leave(list)


def _start() -> "subprocess.Popen[bytes]":
    """A process that waits for nothing, until we end."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=nothing, stderr=nothing, cwd="/")
