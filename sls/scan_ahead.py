"""The longest part of a look at pages, made by a second thread while the tracer asks for everything else.

It is the scan of the dense stretches and the look at their witnesses (`sls.page_tracker`, `sls.page_tables`).
"""

from collections.abc import Sequence

import numpy as np

from sls import syscalls
from sls.helper import CallThread, call_thread
from sls.ranges import RangeArray, Ranges
from sls.syscalls import CallTable, PresenceLook, WrittenScan


class ScanAhead:
    """The calls for some stretches of one process; made anew where these are others."""

    def __init__(self, stretches: Ranges, presence: PresenceLook) -> None:
        self.stretches = list(stretches)
        self.presence = presence
        self._scans = [WrittenScan(start, end) for start, end in stretches]
        calls = [("ioctl", (0, *scan.arguments)) for scan in self._scans]
        self._table = CallTable([*calls, ("move_pages", (0, *presence.arguments))])
        self._thread: CallThread | None = None
        self._pid = self._pagemap = 0

    @property
    def is_begun(self) -> bool:
        return self._thread is not None

    def begin(self, pid: int, pagemap: int) -> None:
        """Begin, if the thread is free."""
        self._thread = call_thread()
        if self._thread is None:
            return
        self._pid, self._pagemap = pid, pagemap
        self._table.arguments[:-1, 0] = pagemap
        self._table.arguments[-1, 0] = pid
        self._thread.start(self._table)

    def wait(self) -> None:
        """Until it is done; then `begin` may follow."""
        assert self._thread is not None
        self._thread.wait()
        self._thread = None

    def written(self) -> list[RangeArray | None]:
        """`syscalls.scan_written` of each stretch, after `wait`. OSError."""
        results = self._table.results.tolist()
        return [
            self._whole(*scan.told(result), scan.end)
            for scan, result in zip(self._scans, results, strict=False)
        ]

    def _whole(self, found: RangeArray | None, walked: int, end: int) -> RangeArray | None:
        if found is None or walked >= end:
            return found
        rest = syscalls.scan_written(self._pagemap, walked, end)
        return None if rest is None else np.concatenate([found, rest])

    def absent(self) -> Sequence[int]:
        """`PresenceLook.absent`, after `wait`. Raises TaskDiedError, OSError."""
        return self.presence.told(self._pid, int(self._table.results[-1]))
