"""Deltas hold what was written, by whatever means: each one beside the memory of the live program, then restored.

The program is blocked in a read(2) while it is looked at, so that its memory is the same for the checkpoint, for
/proc/PID/mem beside it, and for what a restore brings back.
"""

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import xxhash

from sls import proc
from tests.acceptance.job import Job
from tests.mounts import load
from tests.sls.driver import command_of
from tests.sls.visible import is_anyone_running

pytestmark = [pytest.mark.root, pytest.mark.fuse]

PAGE = 4096
MEANS = {
    "s": "plain stores", "r": "read, readv, recv into buffers", "o": "process_vm_writev from outside",
    "m": "mremap", "x": "MAP_FIXED over old mappings", "a": "madvise DONTNEED and FREE", "f": "fork and COW",
    "h": "stores, write(2) and holes in shared memory", "b": "brk", "p": "mprotect", "t": "new threads",
    "H": "huge pages", "d": "DONTNEED of whole page tables", "z": "pages that were only read", "v": "vfork and exec",
}  # fmt: skip
ORDER = "s" + "".join(MEANS) + "Hdsmaxhf"
LONG_PERIOD_MS = 86_400_000  # continuous, but every checkpoint is the test's


class Memory(NamedTuple):
    """Hashes of a process's pages, by address."""

    pages: dict[int, int]

    def differing(self, other: "Memory") -> list[str]:
        """Addresses of pages that differ, or that only one has."""
        addresses = sorted(self.pages.keys() | other.pages.keys())
        return [hex(at) for at in addresses if self.pages.get(at) != other.pages.get(at)]


def readable_of(pid: int) -> Iterator[tuple[int, int]]:
    """Mappings that hold something of the program: neither the kernel's nor the tracer's."""
    vmas = proc.parse_maps(proc.read(pid, "maps"))
    for vma, after in zip(vmas, [*vmas[1:], None], strict=True):
        if vma.name.startswith((b"[v", b"[uprobes")):
            continue
        if vma.is_shared and vma.name.startswith(b"/dev/zero") and _is_arena(vma, after):
            continue
        yield vma.start, vma.end


def _is_arena(vma: proc.VmaLine, after: proc.VmaLine | None) -> bool:
    is_code = vma.permissions == "r-xs" and after is not None and after.inode == vma.inode
    return is_code or (vma.permissions == "rw-s" and vma.offset == PAGE)


def memory_of(path: Path, ranges: list[tuple[int, int]]) -> Memory:
    """What a `mem` file, live or of a generation, has in these ranges."""
    pages: dict[int, int] = {}
    file = os.open(path, os.O_RDONLY)
    try:
        for start, end in ranges:
            data = _pread_all(file, end - start, start)
            for at in range(0, len(data), PAGE):
                pages[start + at] = xxhash.xxh3_64_intdigest(data[at : at + PAGE])
    finally:
        os.close(file)
    return Memory(pages)


def _pread_all(file: int, length: int, offset: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        piece = os.pread(file, length - len(data), offset + len(data))
        assert piece, f"nothing at {offset + len(data):#x}"
        data += piece
    return bytes(data)


def live(job: Job) -> dict[int, tuple[list[tuple[int, int]], Memory]]:
    """Mappings and memory of each member."""
    found = {}
    for pid in job.members():
        ranges = list(readable_of(pid))
        found[pid] = ranges, memory_of(Path(f"/proc/{pid}/mem"), ranges)
    return found


class Writer:
    """The program, told through a pipe what to do."""

    def __init__(self, job: Job, binaries: Path) -> None:
        self.job = job
        reading, self._pipe = os.pipe()
        job.start(*command_of("every_write.c", binaries), stdin=reading, attach=False)
        os.close(reading)
        job.wait_ready()
        self._wait_reading()
        job.attach()

    def do(self, means: str) -> None:
        """Let it write by one means; returns when it is blocked again."""
        done = self.job.text().count(f"{means} done")
        os.write(self._pipe, means.encode())
        self.job.wait_for(lambda: self.job.text().count(f"{means} done") > done, MEANS[means])
        self._wait_reading()
        if means == "o":
            write_from_outside(self.job.pid, self.job.text())

    def replace(self) -> None:
        """Let it run itself anew."""
        ready = self.job.text().count("ready")
        os.write(self._pipe, b"e")
        self.job.wait_for(lambda: self.job.text().count("ready") > ready, "execve")
        self._wait_reading()

    def _wait_reading(self) -> None:
        self.job.wait_for(self._is_reading, "its read")

    def _is_reading(self) -> bool:
        """What it has made sleeps as well: a child that has just begun writes all over its memory."""
        pid = self.job.pid
        if not proc.read(pid, "syscall").startswith(b"0 0x0 "):
            return False
        return not is_anyone_running([pid, *proc.descendants(pid)])

    def close(self) -> None:
        os.close(self._pipe)


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def write_from_outside(pid: int, text: str) -> None:
    """process_vm_writev and /proc/PID/mem, at the place that the program has told."""
    address = int(text.rpartition("outside ")[2].split()[0], 16)
    data = ctypes.create_string_buffer(os.urandom(2 * PAGE), 2 * PAGE)
    ours = _IoVec(ctypes.addressof(data), len(data))
    theirs = _IoVec(address + 100, len(data))
    libc = ctypes.CDLL(None, use_errno=True)
    moved = libc.process_vm_writev(pid, ctypes.byref(ours), 1, ctypes.byref(theirs), 1, 0)
    assert moved == len(data)
    file = os.open(f"/proc/{pid}/mem", os.O_RDWR)
    os.pwrite(file, b"a debugger's word", address + 5 * PAGE)
    os.close(file)


@pytest.fixture(params=[0, LONG_PERIOD_MS], ids=["one-off", "continuous"])
def writer(
    request: pytest.FixtureRequest, job: Job, binaries: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Writer]:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.pthread.rseq=0")  # the kernel writes into that, too
    job.write("period", request.param)
    made = Writer(job, binaries)
    yield made
    made.close()


def check_generation(job: Job, epoch: int, what: str) -> dict[int, Memory]:
    """The newest generation has every page as the live members have it; their memory."""
    found = {}
    for pid, (ranges, memory) in live(job).items():
        kept = memory_of(job.partition / f"generations/{epoch}/processes/{pid}/mem", ranges)
        wrong = memory.differing(kept)
        assert not wrong, f"generation {epoch}, after {what}, pid {pid}, {_vmas_at(pid, wrong)}"
        found[pid] = memory
    return found


def _vmas_at(pid: int, addresses: list[str]) -> set[str]:
    """What is mapped there, for a person to read."""
    places = [int(one, 16) for one in addresses]
    vmas = proc.parse_maps(proc.read(pid, "maps"))
    return {str(one) for one in vmas if any(one.start <= at < one.end for at in places)}


def test_each_delta_is_what_the_program_had_and_restores(writer: Writer) -> None:
    job = writer.job
    expected = {job.checkpoint("recursive"): check_generation(job, 1, "the start")}
    for means in ORDER:
        writer.do(means)
        epoch = job.checkpoint("recursive")
        assert job.info(epoch)["captured"]["kind"] == "delta"
        expected[epoch] = check_generation(job, epoch, MEANS[means])
    writer.replace()
    epoch = job.checkpoint("recursive")
    expected[epoch] = check_generation(job, epoch, "execve")
    job.write("period", 0)
    every = 1 if os.environ.get("SLS_LONG") == "1" else 4
    for epoch, memories in list(expected.items())[::-every]:
        job.kill()
        job.restore(f"{epoch} stopped")
        for pid, memory in memories.items():
            _, restored = live(job)[pid]
            assert not memory.differing(restored), f"generation {epoch}, restored, pid {pid}"
    assert load(job.partition / "stats")["failed"] == 0


def test_a_full_checkpoint_of_the_same_instant_is_the_same(writer: Writer) -> None:
    """`diff` between a delta and a full generation of a program that did nothing in between."""
    job = writer.job
    job.checkpoint("recursive")
    for means in "srmxabphf":
        writer.do(means)
    delta = job.checkpoint("recursive")
    full = job.checkpoint("full recursive")
    assert job.info(full)["captured"]["kind"] == "full"
    for pid in job.members():
        ranges = list(readable_of(pid))
        one, other = (
            memory_of(job.partition / f"generations/{epoch}/processes/{pid}/mem", ranges)
            for epoch in (delta, full)
        )
        assert not one.differing(other)
