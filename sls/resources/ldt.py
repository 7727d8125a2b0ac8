"""Local descriptor tables (modify_ldt(2)): segments of a process's own, as programs of other machines want them.

The kernel shows a table as the processor reads it, and takes one entry at a time in words of its own.
Sources: arch/x86/kernel/ldt.c, arch/x86/include/asm/desc.h (fill_ldt), asm/ldt.h (struct user_desc).

Not kept: nothing.
Kernel: any; CONFIG_MODIFY_LDT_SYSCALL.
"""

import struct
from collections.abc import Iterator
from typing import Final

from sls.remote import Call, In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    RestoreContext,
    RestoredProcess,
    Stage,
)

_READ, _WRITE = 0, 0x11
_ENTRY_BYTES: Final = 8
_TABLE_BYTES: Final = 8192 * _ENTRY_BYTES
_USER_DESC: Final = struct.Struct("=IIII")


class LdtRecord(ProcessRecord, frozen=True, tag="ldt"):
    """The table up to its last entry in use, as the processor reads it; empty where there is none."""

    entries: bytes = b""


class Ldt(ProcessState[LdtRecord]):
    """The table of an address space."""

    stage = Stage.MEMORY
    record = LdtRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[LdtRecord]:
        (first,) = yield [call("modify_ldt", _READ, Out(_ENTRY_BYTES), _ENTRY_BYTES)]
        if first.value <= 0:  # a number of bytes where there is a table, whatever is in it
            return LdtRecord()
        (whole,) = yield [call("modify_ldt", _READ, Out(_TABLE_BYTES), _TABLE_BYTES)]
        whole.check()
        used = len(whole.outputs[0].rstrip(b"\0"))
        return LdtRecord(entries=whole.outputs[0][: used + -used % _ENTRY_BYTES])

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: LdtRecord
    ) -> Remote[None]:
        yield from remote_all(list(_calls(record.entries)))


def _calls(table: bytes) -> Iterator[Call]:
    for number, (entry,) in enumerate(struct.iter_unpack("=Q", table)):
        if entry:
            words = _user_desc(number, entry)
            yield call("modify_ldt", _WRITE, In(words), len(words))


def _user_desc(number: int, entry: int) -> bytes:
    """struct user_desc of one entry. Its flags in their order: 32 bits, contents, read or execute only, pages,
    not present, useable, long mode.
    """
    base = entry >> 16 & 0xFFFFFF | entry >> 56 << 24
    limit = entry & 0xFFFF | entry >> 32 & 0xF0000
    is_wide, is_in_pages, is_useable, is_long = (entry >> bit & 1 for bit in (54, 55, 52, 53))
    contents, may_write, is_present = entry >> 42 & 3, entry >> 41 & 1, entry >> 47 & 1
    flags = is_wide | contents << 1 | (1 - may_write) << 3 | is_in_pages << 4
    flags |= (1 - is_present) << 5 | is_useable << 6 | is_long << 7
    return _USER_DESC.pack(number, base, limit, flags)
