"""Time namespaces (time_namespaces(7)): monotonic and boot-time clocks with an offset.

A namespace that is the restorer's stays that; any other is made anew, once for all processes that were in it. On the
boot of the checkpoint its offsets are what they were, so its clocks have gone on meanwhile; on another boot they are
chosen so that its clocks go on from where they stood.

Not kept: one that only children to come would be in, refused (`namespaces`).
Kernel: Linux 5.6.
"""

import os
import time
from typing import Final

from sls.remote import Remote
from sls.resources.base import CaptureContext, CapturedProcess, RestoreContext
from sls.resources.own_namespace import ProcessNamespace, ProcessNamespaceRecord

_CLOCKS: Final = {"monotonic": time.CLOCK_MONOTONIC, "boottime": time.CLOCK_BOOTTIME}
_SECOND_NS: Final = 10**9


class TimeNamespaceRecord(ProcessNamespaceRecord, frozen=True, tag="time-namespace"):
    """`offsets_ns`, `clocks_ns`: of _CLOCKS in their order; the clocks are the machine's at the capture."""

    offsets_ns: tuple[int, ...] = ()
    clocks_ns: tuple[int, ...] = ()


class TimeNamespace(ProcessNamespace[TimeNamespaceRecord]):
    """Clocks that are shifted. setns(2) into one is for processes with one thread."""

    name, flag = "time", 0x80
    record = TimeNamespaceRecord

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[TimeNamespaceRecord]:
        yield from ()
        link = self.own_link(ctx, process, process.tid)
        if not link:
            return TimeNamespaceRecord()
        return TimeNamespaceRecord(
            link=link,
            owner=self.own_owner(ctx, process, process.tid),
            offsets_ns=_offsets(process.settled("timens_offsets")),
            clocks_ns=_clocks(),
        )

    def settle(self, ctx: RestoreContext, record: TimeNamespaceRecord) -> None:
        shifted = _shifted(record, is_same_boot=ctx.is_same_boot)
        lines = (
            "{} {} {}".format(name, *divmod(offset, _SECOND_NS))
            for name, offset in zip(_CLOCKS, shifted, strict=True)
        )
        fd = os.open("/proc/self/timens_offsets", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, "\n".join(lines).encode())
        finally:
            os.close(fd)


def _clocks() -> tuple[int, ...]:
    return tuple(time.clock_gettime_ns(clock) for clock in _CLOCKS.values())


def _offsets(text: bytes) -> tuple[int, ...]:
    """Of /proc/<pid>/timens_offsets: a clock's name, seconds, nanoseconds, a line each."""
    rows = {row[0].decode(): row[1:] for row in map(bytes.split, text.splitlines())}
    return tuple(int(rows[name][0]) * _SECOND_NS + int(rows[name][1]) for name in _CLOCKS)


def _shifted(record: TimeNamespaceRecord, *, is_same_boot: bool) -> list[int]:
    """The offsets for the machine's clocks as they are now."""
    now = record.clocks_ns if is_same_boot else _clocks()
    return [
        offset + then - at
        for offset, then, at in zip(record.offsets_ns, record.clocks_ns, now, strict=True)
    ]
