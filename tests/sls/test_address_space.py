"""Bytes of captured address spaces: whose page is whose, and where there is none."""

import errno

import pytest

from sls.address_space import AddressSpace, UnmappedError
from sls.resources import Content, MemoryRecord, VmaKind, VmaRecord
from sls.resources.memory import FileVersion
from sls.resources.nameless import Nameless, NamelessKind
from sls.syscalls import PAGE_BYTES as PAGE
from tests.fakes.address_space import FakeFiles, FakeObjects

MEMORY, SHARED = 16, 99
FILE = FileVersion(path=b"/f", size_bytes=PAGE + 10, mtime_ns=1)
GONE = FileVersion(path=b"/gone", size_bytes=4 * PAGE, mtime_ns=1)
INODE = Nameless(
    kind=NamelessKind.ANONYMOUS, content=Content(object_id=SHARED, size_bytes=2 * PAGE)
)


def vma(
    first: int,
    pages: int,
    kind: VmaKind = VmaKind.ANONYMOUS,
    *,
    protection: int = 3,
    is_shared: bool = False,
    offset: int = 0,
    name: bytes = b"",
    file: FileVersion | None = None,
    inode: Nameless | None = None,
) -> VmaRecord:
    return VmaRecord(
        start=first * PAGE, end=(first + pages) * PAGE, protection=protection, is_shared=is_shared,
        kind=kind, offset=offset, name=name, file=file, inode=inode,
    )  # fmt: skip


def record(*vmas: VmaRecord) -> MemoryRecord:
    return MemoryRecord(vmas=vmas, layout=(0,) * 11, auxv=b"", executable=FILE, object_id=MEMORY)


VMAS = (
    vma(10, 2),
    vma(12, 1, protection=0),
    vma(20, 3, VmaKind.FILE, file=FILE),  # its third page is beyond the file
    vma(30, 2, VmaKind.FILE, file=FILE, offset=PAGE, is_shared=True),
    vma(40, 3, VmaKind.FILE, file=GONE),
    vma(50, 4, VmaKind.NAMELESS, inode=INODE, is_shared=True),
    vma(60, 2, VmaKind.NAMELESS, inode=INODE),
    vma(70, 1, VmaKind.KERNEL, name=b"[vvar]"),
    vma(71, 1, VmaKind.KERNEL, name=b"[vdso]"),
)
OBJECTS = FakeObjects({MEMORY: {10: 1, 22: 2, 41: 3, 61: 4}, SHARED: {0: 7, 1: 8}})
FILES = FakeFiles({b"/f": b"a" * PAGE + b"b" * 10})


def make(vdso: bytes = b"") -> AddressSpace:
    return AddressSpace(record(*VMAS), OBJECTS, FILES, vdso=vdso)


def page(fill: bytes) -> bytes:
    return fill.ljust(PAGE, fill[-1:])


@pytest.mark.parametrize(
    ("number", "wanted"),
    [
        (10, page(b"\1")),
        (11, page(b"\0")),
        (12, page(b"\0")),  # PROT_NONE: a debugger reads it
        (20, page(b"a")),
        (21, b"b" * 10 + bytes(PAGE - 10)),
        (22, page(b"\2")),
        (30, b"b" * 10 + bytes(PAGE - 10)),
        (41, page(b"\3")),
        (50, page(b"\7")),
        (51, page(b"\x08")),
        (60, page(b"\7")),
        (61, page(b"\4")),
    ],
)
def test_each_page_comes_from_whom_it_belongs_to(number: int, wanted: bytes) -> None:
    space = make()
    assert space.read(number * PAGE, PAGE) == wanted
    assert space.read(number * PAGE + 5, 3) == wanted[5:8]


@pytest.mark.parametrize("number", [0, 9, 13, 31, 40, 42, 52, 53, 70, 71, 72, 1 << 40])
def test_where_nothing_is_kept(number: int) -> None:
    with pytest.raises(UnmappedError) as caught:
        make().read(number * PAGE, 1)
    assert caught.value.errno == errno.EIO
    assert make().read(number * PAGE, 0) == b""


@pytest.mark.parametrize(
    ("number", "pages"), [(10, 3), (20, 3), (30, 1), (41, 1), (50, 2), (60, 2)]
)
def test_a_read_stops_at_the_first_byte_that_is_not_there(number: int, pages: int) -> None:
    assert len(make().read(number * PAGE, 100 * PAGE)) == pages * PAGE


def test_the_vdso_of_this_kernel() -> None:
    space = make(page(b"v"))
    assert space.read(71 * PAGE, PAGE) == page(b"v")
    assert space.readable_ranges(VMAS[-1]) == [(71 * PAGE, 72 * PAGE)]


def test_what_can_be_read_is_what_reads() -> None:
    space = make()
    found = {
        number
        for one in VMAS
        for start, end in space.readable_ranges(one)
        for number in range(start // PAGE, end // PAGE)
    }
    assert found == {10, 11, 20, 21, 22, 30, 41, 50, 51, 60, 61}
    own = [(start // PAGE, end // PAGE) for start, end in space.own_ranges()]
    assert own == [(10, 11), (22, 23), (41, 42), (61, 62)]
