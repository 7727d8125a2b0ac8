"""Core files: layout and notes. What debuggers make of them is in tests/slfs/test_generations.py."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from sls.address_space import AddressSpace
from sls.core import Core
from sls.image import ProcessImage, ThreadImage
from sls.resources import (
    CredentialsRecord,
    MemoryRecord,
    ThreadSignalsRecord,
    ThreadStateRecord,
    VmaRecord,
)
from sls.syscalls import PAGE_BYTES as PAGE
from sls.syscalls import REGISTERS_BYTES
from tests.fakes.address_space import FakeFiles, FakeObjects
from tests.sls.test_address_space import FILES, MEMORY, OBJECTS, VMAS, record, vma

XSTATE_BYTES = 576 + 256
QUEUED = struct.pack("<i", 10).ljust(128, b"\0")


def thread(tid: int, *, xstate: bytes = b"") -> ThreadImage:
    state = ThreadStateRecord(
        registers=struct.pack("<27Q", *range(tid, tid + 27)), xstate=xstate, sigmask=0x40,
        comm=b"a thread", clear_child_tid=0, robust_list=0, robust_list_bytes=0, rseq_address=0,
        rseq_bytes=0, rseq_signature=0, policy=0, priority=0, nice=5, io_priority=0, affinity=(0,),
    )  # fmt: skip
    signals = ThreadSignalsRecord(stack_address=0, stack_flags=2, stack_bytes=0, queue=(QUEUED,))
    credentials = CredentialsRecord(
        uids=(7, 7, 7, 7), gids=(8, 8, 8, 8), groups=(), inheritable=0, permitted=0, effective=0,
        bounding=0, ambient=0, securebits=0, no_new_privs=False, dumpable=1, death_signal=0,
    )  # fmt: skip
    return ThreadImage(tid=tid, states=(state, signals, credentials))


def process(memory: MemoryRecord, *threads: ThreadImage) -> ProcessImage:
    return ProcessImage(
        pid=100, ppid=1, pgid=100, sid=99, comm=b"program", states=(memory,), threads=threads
    )


def core_of(memory: MemoryRecord, *threads: ThreadImage) -> Core:
    return Core(process(memory, *threads), AddressSpace(memory, OBJECTS, FILES))


def whole(core: Core) -> bytes:
    return core.read(0, core.size_bytes)


def notes_of(data: bytes) -> list[tuple[bytes, int, bytes]]:
    """(owner, type, description) of every note."""
    _, _, start, _, _, size, _, _ = struct.unpack_from("<IIQQQQQQ", data, 64)
    found, position = [], start
    while position < start + size:
        name, length, kind = struct.unpack_from("<III", data, position)
        owner = data[position + 12 : position + 11 + name]
        position += 12 + -(-name // 4) * 4
        found.append((owner, kind, data[position : position + length]))
        position += -(-length // 4) * 4
    return found


def loads_of(data: bytes) -> list[tuple[int, ...]]:
    (count,) = struct.unpack_from("<H", data, 56)
    if count == 0xFFFF:
        (section,) = struct.unpack_from("<Q", data, 40)
        (count,) = struct.unpack_from("<I", data, section + 44)
    return [struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * index) for index in range(1, count)]


def test_notes_in_the_order_of_the_kernel() -> None:
    area = bytes(512) + struct.pack("<Q", 7) + bytes(XSTATE_BYTES - 520)
    data = whole(core_of(record(*VMAS), thread(100, xstate=area), thread(105, xstate=area)))
    notes = notes_of(data)
    assert [kind for _, kind, _ in notes] == [
        1, 3, 0x53494749, 6, 0x46494C45, 2, 0x202, 1, 2, 0x202,
    ]  # fmt: skip
    assert {owner for owner, kind, _ in notes if kind == 0x202} == {b"LINUX"}
    first, second = (text for _, kind, text in notes if kind == 1)
    assert len(first) == 336
    assert struct.unpack_from("<QQ4i", first, 16) == (1 << 9, 0x40, 100, 1, 100, 99)
    assert struct.unpack_from("<i", second, 32) == (105,)
    assert first[112 : 112 + REGISTERS_BYTES][:8] == struct.pack("<Q", 100)
    information = next(text for _, kind, text in notes if kind == 3)
    assert len(information) == 136
    assert information[40:56].rstrip(b"\0") == b"program"
    extended = next(text for _, kind, text in notes if kind == 0x202)
    assert struct.unpack_from("<Q", extended, 464) == (7,), "features, filled in"


def test_features_that_the_kernel_told_are_kept() -> None:
    area = bytes(464) + struct.pack("<Q", 0xE7) + bytes(XSTATE_BYTES - 472)
    notes = notes_of(whole(core_of(record(*VMAS), thread(100, xstate=area))))
    assert next(text for _, kind, text in notes if kind == 0x202) == area


def test_segments_hold_what_can_be_read() -> None:
    core = core_of(record(*VMAS), thread(100))
    data = whole(core)
    assert len(data) == core.size_bytes
    space = AddressSpace(record(*VMAS), OBJECTS, FILES)
    covered: list[int] = []
    for kind, flags, offset, address, _, stored, size, align in loads_of(data):
        assert (kind, align, offset % PAGE, address % PAGE) == (1, PAGE, 0, 0)
        assert stored in (0, size)
        assert data[offset : offset + stored] == (space.read(address, stored) if stored else b"")
        assert flags == (0 if address == 12 * PAGE else 6)
        covered += range(address // PAGE, (address + size) // PAGE)
    assert covered == [n for one in VMAS for n in range(one.start // PAGE, one.end // PAGE)]


@pytest.mark.parametrize("piece", [1, 100, 4095, 4096, 5000])
def test_pieces_are_the_whole(piece: int) -> None:
    core = core_of(record(*VMAS), thread(100))
    size = core.size_bytes
    step = max(piece, size // 50)
    for offset in range(0, size + PAGE, step):
        assert core.read(offset, piece) == whole(core)[offset : offset + piece]


def test_what_is_no_hole() -> None:
    core = core_of(record(*VMAS), thread(100))
    data = whole(core)
    ranges = list(core.data_ranges())
    assert ranges == sorted(ranges)
    own = [data[start] for start, _ in ranges[1:]]
    assert own == [1, 2, 3, 4]
    assert all(end - start == PAGE for start, end in ranges[1:])


def test_a_mapped_file_that_changes_under_an_open_core() -> None:
    files: dict[bytes, bytes] = {b"/f": b"x" * 8192}
    memory = record(*VMAS)
    core = Core(process(memory, thread(100)), AddressSpace(memory, OBJECTS, FakeFiles(files)))
    (offset,) = (load[2] for load in loads_of(core.read(0, PAGE)) if load[3] == 20 * PAGE)
    assert core.read(offset, 4) == b"xxxx"
    del files[b"/f"]
    with pytest.raises(OSError, match="nothing is kept"):
        core.read(offset, 4)
    assert len(core.read(offset - 10, 100)) == 10


@pytest.mark.parametrize("count", [65534, 65535])
def test_more_mappings_than_a_header_can_count(count: int, tmp_path: Path) -> None:
    """elf(5), PN_XNUM: one program header is for notes."""
    vmas: list[VmaRecord] = [vma(16 + 2 * index, 1, protection=0) for index in range(count - 1)]
    memory = record(vma(10, 1, protection=1), *vmas)
    core = Core(
        process(memory, thread(100)), AddressSpace(memory, FakeObjects({MEMORY: {}}), FakeFiles({}))
    )
    data = whole(core)
    assert len(loads_of(data)) == count
    path = tmp_path / "core"
    path.write_bytes(data)
    for reader in ("readelf", "eu-readelf"):
        said = subprocess.run([reader, "-l", path], capture_output=True, text=True, check=True)
        assert said.stderr == ""
        assert said.stdout.count("LOAD") == count
    assert os.path.getsize(path) == core.size_bytes
