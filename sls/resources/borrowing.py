"""Descriptors of a process, ours for a moment, in looks that are made again and again (`sls.observations`).

Not a resource of its own. Single-threaded.
"""

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from sls.errors import TaskDiedError
from sls.resources.base import PIDFD_THREAD, CapturedProcess
from sls.syscalls import CallTable


class Borrowing:
    """Duplicates of some descriptors of a process, for a moment: one that stays would keep a socket open."""

    def __init__(self, process: CapturedProcess, descriptors: Sequence[int]) -> None:
        self._tid = process.tid
        self._flags = PIDFD_THREAD if process.tid != process.pid else 0
        self._take = CallTable([("pidfd_getfd", (0, fd, 0)) for fd in descriptors])
        self._close = CallTable([("close", ())] * len(descriptors))

    @contextmanager
    def borrowed(self) -> Iterator[NDArray[np.int64]]:
        """Within: ours, in their order. Raises TaskDiedError, OSError when one of them cannot be had."""
        try:
            pidfd = os.pidfd_open(self._tid, self._flags)
        except ProcessLookupError as error:
            raise TaskDiedError(self._tid, "taking its descriptors") from error
        try:
            self._take.arguments[:, 0] = pidfd
            self._take.make()
            ours = self._take.results.copy()
            try:
                if len(ours) and ours.min() < 0:
                    self._fail(-int(ours.min()))
                yield ours
            finally:
                self._close.arguments[:, 0] = ours  # close(2) of a negative number does nothing
                self._close.make()
        finally:
            os.close(pidfd)

    def _fail(self, code: int) -> None:
        if code == errno.ESRCH:
            raise TaskDiedError(self._tid, "taking its descriptors")
        raise OSError(code, os.strerror(code), f"descriptors of pid {self._tid}")
