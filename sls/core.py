"""An ELF core file of a captured process, made when it is read: headers and notes here, memory from an `AddressSpace`.

Notes come in the kernel's order (fs/binfmt_elf.c, elf_core_dump): those of the process after the first thread's
NT_PRSTATUS. Every readable range of memory has a PT_LOAD with its bytes, so that a debugger needs no other file;
what cannot be read has one without. Layout depends on what is readable when the core is made. Sources: elf(5), core(5).
"""

import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from sls.address_space import AddressSpace, Range, UnmappedError
from sls.image import ProcessImage, ThreadImage
from sls.resources import (
    CredentialsRecord,
    ThreadSignalsRecord,
    VmaRecord,
    final_registers,
)
from sls.syscalls import PAGE_BYTES, registers_to_bytes

_FILE_HEADER = struct.Struct("<16sHHIQQQIHHHHHH")
_PROGRAM_HEADER = struct.Struct("<IIQQQQQQ")
_SECTION_HEADER = struct.Struct("<IIQQQQIIQQ")
_NOTE = struct.Struct("<III")
_IDENT: Final = b"\x7fELF\x02\x01\x01".ljust(
    16, b"\0"
)  # 64 bits, little endian, version 1, System V
_ET_CORE, _EM_X86_64 = 4, 62
_PT_LOAD, _PT_NOTE = 1, 4
_PN_XNUM: Final = 0xFFFF  # the count is in sh_info of section 0

_NT_PRSTATUS, _NT_FPREGSET, _NT_PRPSINFO, _NT_AUXV, _NT_X86_XSTATE = 1, 2, 3, 6, 0x202
_NT_FILE, _NT_SIGINFO = 0x46494C45, 0x53494749
_SIGINFO_BYTES: Final = 128
# struct elf_prstatus: siginfo (3 ints), cursig, sigpend, sighold, pid, ppid, pgrp, sid, four times, registers, fpvalid
_PRSTATUS = struct.Struct("<3ihxxQQ4i64s216si4x")
# struct elf_prpsinfo: state, sname, zomb, nice, flag, uid, gid, pid, ppid, pgrp, sid, fname, psargs
_PRPSINFO = struct.Struct("<bcbb4xQII4i16s80s")

_FXSAVE_BYTES: Final = 512
_XCR0_OFFSET: Final = (
    464  # in the bytes of the XSAVE area that are software's: features of the whole area
)
_XSTATE_BV_OFFSET: Final = 512
_X87_AND_SSE: Final = 3


class Segment(NamedTuple):
    """Memory [start, end) with its PROT_ bits; `has_bytes`: they are in the file."""

    start: int
    end: int
    protection: int
    has_bytes: bool


class Core:
    """One core file. Immutable; the bytes of memory are fetched at each read."""

    def __init__(self, process: ProcessImage, memory: AddressSpace) -> None:
        self._memory = memory
        segments = list(_segments(memory))
        self._head = _head(segments, _notes(process, memory))
        self._stored = [one for one in segments if one.has_bytes]
        self._offsets = list(_offsets(segments, len(self._head)))
        self.size_bytes = self._offsets.pop()

    def read(self, offset: int, length: int) -> bytes:
        """Bytes of the file, short at its end, and where a mapped file changed since it was made; OSError (EIO)."""
        pieces = [self._head[offset : offset + length]]
        position = offset + len(pieces[0])
        end = min(offset + length, self.size_bytes)
        while position < end:
            index = bisect_right(self._offsets, position) - 1
            segment, start = self._stored[index], self._offsets[index]
            address = segment.start + position - start
            wanted = min(end - position, segment.end - address)
            try:
                piece = self._memory.read(address, wanted)
            except UnmappedError:
                if position == offset:
                    raise
                break
            pieces.append(piece)
            position += len(piece)
            if len(piece) < wanted:
                break
        return b"".join(pieces)

    def data_ranges(self) -> Iterator[Range]:
        """Offsets of what is no hole for the generation: the headers and the process's own pages, ascending."""
        yield 0, len(self._head)
        index = 0
        for start, end in self._memory.own_ranges():
            while index < len(self._stored) and self._stored[index].start < end:
                segment, offset = self._stored[index], self._offsets[index]
                low, high = max(start, segment.start), min(end, segment.end)
                if low < high:
                    yield offset + low - segment.start, offset + high - segment.start
                if segment.end > end:
                    break
                index += 1


def _segments(memory: AddressSpace) -> Iterator[Segment]:
    """Mappings, each cut where what is readable begins and ends."""
    for vma in memory.vmas:
        position = vma.start
        for low, high in memory.readable_ranges(vma):
            if position < low:
                yield Segment(position, low, vma.protection, has_bytes=False)
            yield Segment(low, high, vma.protection, has_bytes=True)
            position = high
        if position < vma.end:
            yield Segment(position, vma.end, vma.protection, has_bytes=False)


def _offsets(segments: Iterable[Segment], first: int) -> Iterator[int]:
    """File offsets of the segments with bytes, then the file's end."""
    for one in segments:
        if one.has_bytes:
            yield first
            first += one.end - one.start
    yield first


# --- headers --------------------------------------------------------------------------------------------------------


def _head(segments: Sequence[Segment], notes: bytes) -> bytes:
    """Everything before memory, padded to a page."""
    count = len(segments) + 1
    is_extended = count >= _PN_XNUM
    sections_at = _FILE_HEADER.size + count * _PROGRAM_HEADER.size
    notes_at = sections_at + is_extended * _SECTION_HEADER.size
    memory_at = _whole_pages(notes_at + len(notes))
    parts = [
        _FILE_HEADER.pack(
            _IDENT, _ET_CORE, _EM_X86_64, 1, 0, _FILE_HEADER.size, sections_at if is_extended else 0, 0,
            _FILE_HEADER.size, _PROGRAM_HEADER.size, _PN_XNUM if is_extended else count,
            _SECTION_HEADER.size if is_extended else 0, int(is_extended), 0,
        ),
        _PROGRAM_HEADER.pack(_PT_NOTE, 0, notes_at, 0, 0, len(notes), 0, 4),
    ]  # fmt: skip
    offset = memory_at
    for one in segments:
        stored = one.end - one.start if one.has_bytes else 0
        parts.append(
            _PROGRAM_HEADER.pack(
                _PT_LOAD, _flags(one.protection), offset, one.start, 0, stored,
                one.end - one.start, PAGE_BYTES,
            )
        )  # fmt: skip
        offset += stored
    if is_extended:
        parts.append(_SECTION_HEADER.pack(0, 0, 0, 0, 0, 1, 0, count, 0, 0))
    return b"".join([*parts, notes]).ljust(memory_at, b"\0")


def _flags(protection: int) -> int:
    """PROT_READ, WRITE, EXEC (1, 2, 4) as PF_R, W, X (4, 2, 1)."""
    return (protection & 1) << 2 | protection & 2 | protection >> 2 & 1


def _whole_pages(size_bytes: int) -> int:
    return -(-size_bytes // PAGE_BYTES) * PAGE_BYTES


# --- notes ----------------------------------------------------------------------------------------------------------


def _note(kind: int, data: bytes, owner: bytes = b"CORE") -> bytes:
    name = owner + b"\0"
    padded = _aligned(name) + _aligned(data)
    return _NOTE.pack(len(name), len(data), kind) + padded


def _aligned(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")


def _notes(process: ProcessImage, memory: AddressSpace) -> bytes:
    leader, *others = process.threads
    parts = [
        _note(_NT_PRSTATUS, _status(process, leader)),
        _note(_NT_PRPSINFO, _process_information(process, memory)),
        _note(_NT_SIGINFO, bytes(_SIGINFO_BYTES)),  # no signal ended it
        _note(_NT_AUXV, process.memory.auxv),
        _note(_NT_FILE, _mapped_files(memory.vmas)),
        *_floating_point(leader),
    ]
    for thread in others:
        parts += [_note(_NT_PRSTATUS, _status(process, thread)), *_floating_point(thread)]
    return b"".join(parts)


def _status(process: ProcessImage, thread: ThreadImage) -> bytes:
    return _PRSTATUS.pack(
        0, 0, 0, 0, _pending(thread), thread.state.sigmask,
        thread.tid, process.ppid, process.pgid, process.sid,
        b"", registers_to_bytes(final_registers(thread.state)), 1,
    )  # fmt: skip


def _pending(thread: ThreadImage) -> int:
    """Mask of the signals that wait for this thread."""
    queues = [one.queue for one in thread.states if isinstance(one, ThreadSignalsRecord)]
    numbers = {int.from_bytes(info[:4], "little") for queue in queues for info in queue}
    return sum(1 << number - 1 for number in numbers)


def _process_information(process: ProcessImage, memory: AddressSpace) -> bytes:
    leader = process.threads[0]
    credentials = next(one for one in leader.states if isinstance(one, CredentialsRecord))
    return _PRPSINFO.pack(
        0, b"R", 0, leader.state.nice, 0, credentials.uids[0], credentials.gids[0],
        process.pid, process.ppid, process.pgid, process.sid,
        process.comm[:15], _arguments(process, memory),
    )  # fmt: skip


def _arguments(process: ProcessImage, memory: AddressSpace) -> bytes:
    start, end = process.memory.layout[7:9]
    try:
        text = memory.read(start, min(end - start, 79))
    except UnmappedError:
        return b""
    return text.rstrip(b"\0").replace(b"\0", b" ")


def _mapped_files(vmas: Iterable[VmaRecord]) -> bytes:
    """NT_FILE: count, page size, then start, end, offset in pages of each mapping; then their names."""
    mapped = [vma for vma in vmas if vma.file is not None or vma.inode is not None]
    numbers = [len(mapped), PAGE_BYTES]
    for vma in mapped:
        numbers += [vma.start, vma.end, vma.offset // PAGE_BYTES]
    names = b"".join(vma.name + b"\0" for vma in mapped)
    return struct.pack(f"<{len(numbers)}Q", *numbers) + names


def _floating_point(thread: ThreadImage) -> list[bytes]:
    """FXSAVE area, and the whole XSAVE area with the features it has room for, as debuggers look for them."""
    area = thread.state.xstate
    if len(area) < _XSTATE_BV_OFFSET + 8:
        return []
    if not any(area[_XCR0_OFFSET : _XCR0_OFFSET + 8]):
        present = int.from_bytes(area[_XSTATE_BV_OFFSET : _XSTATE_BV_OFFSET + 8], "little")
        features = (present | _X87_AND_SSE).to_bytes(8, "little")
        area = area[:_XCR0_OFFSET] + features + area[_XCR0_OFFSET + 8 :]
    return [
        _note(_NT_FPREGSET, area[:_FXSAVE_BYTES]),
        _note(_NT_X86_XSTATE, area, b"LINUX"),
    ]
