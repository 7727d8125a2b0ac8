"""What changed between two images, line by line."""

import struct
from collections.abc import Iterable

import msgspec

from sls.address_space import Range
from sls.diff import differences
from sls.image import DescriptorImage, Image, ProcessImage, ThreadImage
from sls.resources import MemoryRecord, ProcessStateRecord, VmaKind, VmaRecord
from sls.syscalls import PAGE_BYTES as PAGE
from tests.sls.test_address_space import INODE, record, vma
from tests.sls.test_core import thread

STATE = ProcessStateRecord(
    cwd=b"/", root=b"/", umask=0o22, personality=0, limits=(), is_subreaper=False, thp_disabled=0,
    oom_score_adj=0,
)  # fmt: skip
VMAS = (vma(10, 2), vma(20, 4, name=b"[heap]"), vma(90, 5, name=b"[stack]"))


class Fixed:
    """`sls.diff.Changes` that were decided beforehand, in page numbers."""

    def __init__(self, memory: Iterable[Range] = (), content: Iterable[Range] = ()) -> None:
        self._memory = [(start * PAGE, end * PAGE) for start, end in memory]
        self._content = [(start * PAGE, end * PAGE) for start, end in content]

    def of_memory(self, old: ProcessImage, new: ProcessImage) -> list[Range]:
        return self._memory

    def of_content(self, old_object: int, new_object: int) -> list[Range]:
        return self._content


def descriptor(fd: int, target: bytes, info: bytes = b"pos:\t0\nflags:\t02\n") -> DescriptorImage:
    return DescriptorImage(fd=fd, file_id=fd, close_on_exec=False, target=target, info=info)


def process(
    pid: int = 5,
    *,
    vmas: tuple[VmaRecord, ...] = VMAS,
    threads: tuple[ThreadImage, ...] | None = None,
    descriptors: tuple[DescriptorImage, ...] = (),
    state: ProcessStateRecord = STATE,
) -> ProcessImage:
    memory: MemoryRecord = record(*vmas)
    return ProcessImage(
        pid=pid, ppid=1, pgid=pid, sid=pid, comm=b"sh", states=(memory, state),
        threads=threads or (thread(pid),), descriptors=descriptors,
    )  # fmt: skip


def image(*processes: ProcessImage) -> Image:
    return Image(time_ns=1, boot_id="", kernel="", processes=processes, files=())


def lines(old: ProcessImage, new: ProcessImage, changes: Fixed | None = None) -> list[str]:
    return [*differences(image(old), image(new), changes or Fixed())]


def test_equal_images_have_no_difference() -> None:
    assert lines(process(), process()) == []


def test_processes_come_and_go() -> None:
    found = differences(image(process(5), process(6)), image(process(6), process(7)), Fixed())
    assert [*found] == ["- processes/5 (sh)", "+ processes/7 (sh)"]
    assert [*differences(None, image(process(5)), Fixed())] == ["+ processes/5 (sh)"]
    zombie = ProcessImage(pid=5, ppid=1, pgid=5, sid=5, comm=b"sh", exit_status=256)
    assert lines(process(), zombie) == ["~ processes/5/status exit status: None -> 256"]


def test_mappings() -> None:
    new = (
        vma(10, 2, protection=1),
        vma(20, 6, name=b"[heap]"),
        vma(50, 1),
        vma(88, 7, name=b"[stack]"),
    )
    assert lines(process(), process(vmas=new)) == [
        "~ processes/5/maps a000-c000 rw-p -> a000-c000 r--p",
        "~ processes/5/maps 14000-18000 rw-p [heap] -> 14000-1a000 rw-p [heap]",
        "+ processes/5/maps 32000-33000 rw-p",
        "~ processes/5/maps 5a000-5f000 rw-p [stack] -> 58000-5f000 rw-p [stack]",
    ]
    assert (
        lines(process(vmas=new), process(vmas=VMAS[1:]))[0] == "- processes/5/maps a000-c000 r--p"
    )


def test_pages_by_mapping() -> None:
    changes = Fixed(memory=[(11, 12), (20, 21), (22, 24), (70, 80)])
    assert lines(process(), process(), changes) == [
        "~ processes/5/mem a000-c000 rw-p: 1 of 2 pages: b000",
        "~ processes/5/mem 14000-18000 rw-p [heap]: 3 of 4 pages: 14000 16000-18000",
    ]
    many = Fixed(memory=[(2 * n, 2 * n + 1) for n in range(100, 150)])
    (line,) = lines(process(vmas=(vma(100, 900),)), process(vmas=(vma(100, 900),)), many)
    assert ": 50 of 900 pages: c8000 " in line
    assert line.endswith(" ...")


def test_shared_memory_counts_once() -> None:
    shared = (
        vma(50, 2, VmaKind.NAMELESS, inode=INODE, is_shared=True),
        vma(60, 1, VmaKind.NAMELESS, inode=INODE, is_shared=True, offset=PAGE),
    )
    changes = Fixed(memory=[(50, 51)], content=[(1, 2)])
    assert lines(process(vmas=shared), process(vmas=shared), changes) == [
        "~ processes/5/mem 32000-34000 rw-s: 1 of 2 pages: 33000"
    ]


def test_descriptors() -> None:
    old = (descriptor(0, b"/a"), descriptor(1, b"/b"), descriptor(2, b"/c"))
    new = (
        descriptor(1, b"/x\n"),
        descriptor(2, b"/c", b"pos:\t7\nflags:\t02\nlock: 1\n"),
        descriptor(3, b"/d"),
    )
    assert lines(process(descriptors=old), process(descriptors=new)) == [
        "- processes/5/fd/0 /a",
        "~ processes/5/fd/1 /b -> /x\\n",
        "~ processes/5/fdinfo/2 pos: 0 -> 7",
        "+ processes/5/fdinfo/2 lock: 1",
        "+ processes/5/fd/3 /d",
    ]
    watch = b"tfd: 4 events: 1\n"
    more = watch + b"tfd: 5 events: 1\n"
    before, after = (process(descriptors=(descriptor(0, b"e", one),)) for one in (watch, more))
    assert lines(before, after) == ["+ processes/5/fdinfo/0 tfd: 5 events: 1"]


def test_threads_and_their_registers() -> None:
    old = (thread(5), thread(6))
    moved = msgspec.structs.replace(
        old[0].state, registers=struct.pack("<27Q", 99, *range(6, 32)), xstate=b"other", sigmask=0
    )
    new = (msgspec.structs.replace(old[0], states=(moved, *old[0].states[1:])), thread(8))
    found = lines(process(threads=old), process(threads=new))
    assert found == [
        "~ processes/5/threads/5/registers r15: 0x5 -> 0x63",
        "~ processes/5/threads/5/registers sigmask: 0x40 -> 0x0",
        "~ processes/5/threads/5/registers floating-point and vector state",
        "- processes/5/threads/6 (a thread)",
        "+ processes/5/threads/8 (a thread)",
    ]


def test_directories_and_parents() -> None:
    new = process(state=msgspec.structs.replace(STATE, cwd=b"/tmp"))
    found = lines(process(), msgspec.structs.replace(new, ppid=2))
    assert found == ["~ processes/5/cwd / -> /tmp", "~ processes/5/status ppid: 1 -> 2"]
