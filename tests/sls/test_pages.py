"""Sets of address ranges, against sets of pages; what the tracking of pages costs in the program."""

import errno
import gc
import mmap
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls import proc, syscalls
from sls.capture import Tracer
from sls.errors import TaskDiedError, WorkerError
from sls.pages import SHARED_BYTES, CopyBuffer, copy_running
from sls.ranges import (
    NOTHING,
    as_array,
    as_list,
    difference,
    halves,
    intersection,
    merged,
    page_numbers,
    pages_as_ranges,
    total_bytes,
)
from sls.syscalls import PAGE_BYTES
from tests.sls.apart import Program, apart
from tests.sls.driver import command_of

RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=12).map(
    lambda pairs: [(start, start + length) for start, length in pairs]
)


def pages(ranges: list[tuple[int, int]]) -> set[int]:
    return {page for start, end in ranges for page in range(start, end)}


def check_ordered(ranges: list[tuple[int, int]]) -> None:
    assert all(start < end for start, end in ranges)
    assert all(left[1] <= right[0] for left, right in pairwise(ranges))


@given(RANGES)
def test_merged(ranges: list[tuple[int, int]]) -> None:
    joined = merged(ranges)
    check_ordered(joined)
    assert pages(joined) == pages(ranges)
    assert total_bytes(joined) == len(pages(ranges))


@given(RANGES, RANGES)
def test_intersection_and_difference(
    left: list[tuple[int, int]], right: list[tuple[int, int]]
) -> None:
    left, right = merged(left), merged(right)
    both, rest = intersection(left, right), difference(left, right)
    check_ordered(both)
    check_ordered(rest)
    assert pages(both) == pages(left) & pages(right)
    assert pages(rest) == pages(left) - pages(right)


def test_page_numbers_and_back() -> None:
    ranges = as_array([(0, PAGE_BYTES), (5 * PAGE_BYTES, 8 * PAGE_BYTES)])
    assert page_numbers(ranges).tolist() == [0, 5, 6, 7]
    assert pages_as_ranges(page_numbers(ranges)).tolist() == ranges.tolist()
    assert not len(page_numbers(NOTHING))
    assert not len(pages_as_ranges(page_numbers(NOTHING)))
    with pytest.raises(AssertionError):
        page_numbers(as_array([(1, PAGE_BYTES)]))


@given(RANGES.filter(bool))
def test_halves(ranges: list[tuple[int, int]]) -> None:
    whole = merged((start * PAGE_BYTES, end * PAGE_BYTES) for start, end in ranges)
    one, other = map(as_list, halves(as_array(whole)))
    assert merged([*one, *other]) == whole
    assert one + other == sorted(one + other)
    check_ordered(one)
    check_ordered(other)
    assert 0 <= total_bytes(other) - total_bytes(one) <= PAGE_BYTES


@pytest.mark.parametrize("pages_each", [1, 3, 1000])
def test_a_copy_by_two_threads_with_parts_that_are_closed(pages_each: int) -> None:
    """Of this very process; in pieces, some of which its owner may not read."""
    size = 3000 * PAGE_BYTES
    buffer = CopyBuffer()
    with mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"".join(number.to_bytes(4, "little") * 1024 for number in range(3000))
        start = syscalls.address_of(memory)
        syscalls.syscall("mprotect", start + 900 * PAGE_BYTES, 20 * PAGE_BYTES, 0)
        syscalls.syscall("mprotect", start + 2900 * PAGE_BYTES, 20 * PAGE_BYTES, 0)
        step = (pages_each + 1) * PAGE_BYTES
        places = [(at, min(size, at + pages_each * PAGE_BYTES)) for at in range(0, size, step)]
        offset = buffer.copy_ranges(
            os.getpid(), as_array([(start + one, start + end) for one, end in places])
        )
        syscalls.syscall("mprotect", start, size, mmap.PROT_READ)
        expected = b"".join(memory[one:end] for one, end in places)
        assert len(expected) >= SHARED_BYTES
        assert buffer.view(offset, len(expected)) == expected
    buffer.close()


def test_a_large_buffer_stays_as_long_as_it_is_needed() -> None:
    def allocated() -> int:
        return os.fstat(buffer.fd).st_blocks * 512

    buffer = CopyBuffer()
    large = 100 << 20
    buffer.reserve(large)
    buffer.clear(keep=True)
    assert allocated() >= large
    buffer.reserve(PAGE_BYTES)
    buffer.clear(keep=True)
    assert allocated() < large
    buffer.reserve(large)
    buffer.clear()
    assert allocated() < large
    buffer.close()


def test_memory_of_a_running_task_with_parts_that_are_gone_or_closed() -> None:
    """What is unmapped is zeros, what its owner may not read is there."""
    with mmap.mmap(-1, 8 * PAGE_BYTES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory[:] = b"".join(bytes([number]) * PAGE_BYTES for number in range(1, 9))
        start = syscalls.address_of(memory)
        syscalls.syscall("mprotect", start + PAGE_BYTES, PAGE_BYTES, 0)
        syscalls.syscall("munmap", start + 3 * PAGE_BYTES, 2 * PAGE_BYTES)
        ranges = as_array(
            [(start, start + 6 * PAGE_BYTES), (start + 7 * PAGE_BYTES, start + 8 * PAGE_BYTES)]
        )
        view = memoryview(bytearray(b"?" * 7 * PAGE_BYTES))
        copy_running(os.getpid(), ranges, view)
        assert [view[at] for at in range(0, len(view), PAGE_BYTES)] == [1, 2, 3, 0, 0, 6, 8]
        assert all(
            len(set(view[at : at + PAGE_BYTES])) == 1 for at in range(0, len(view), PAGE_BYTES)
        )
        fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
        syscalls.syscall("mmap", start + 3 * PAGE_BYTES, 2 * PAGE_BYTES, 3, fixed, -1, 0)


def test_memory_of_a_task_that_has_ended() -> None:
    child = subprocess.Popen(["sleep", "60"])
    child.kill()
    child.wait()
    with pytest.raises(TaskDiedError):
        copy_running(
            child.pid, as_array([(PAGE_BYTES, 2 * PAGE_BYTES)]), memoryview(bytearray(PAGE_BYTES))
        )


@pytest.mark.root
def test_100_gib_with_three_pages_cost_three_pages(tmp_path: Path, binaries: Path) -> None:
    command = [*command_of("advice.c", binaries), str(tmp_path / "go"), "spread"]

    def capture_often() -> None:
        tracer = Tracer()
        first = tracer.capture(program.tree, full=True, track=True, stay=True)
        tables = int(proc.status(program.pid)["VmPTE"].split()[0])
        assert first.pages < 3000
        for _ in range(3):
            assert tracer.capture(program.tree, full=False, track=True, stay=True).pages < 100
        assert int(proc.status(program.pid)["VmPTE"].split()[0]) < tables + 200
        tracer.leave(program.tree)

    with Program(command, tmp_path) as program:
        while not program.lines():
            time.sleep(0.001)
        apart(capture_often)
        (tmp_path / "go").touch()
        assert program.process.wait(10) == 0
        assert program.lines() == ["ready", "ok"]


def test_no_memory_for_a_copy() -> None:
    buffer = CopyBuffer(1 << 16)
    place = buffer.reserve(3)
    buffer.view(place, 3)[:] = b"abc"
    with pytest.raises(
        WorkerError, match="no memory for a copy of 1073741824 MiB; free some"
    ) as raised:
        buffer.reserve(1 << 50)  # more than there are addresses
    assert raised.value.errno == errno.ENOMEM
    assert os.fstat(buffer.fd).st_size == 1 << 16
    assert bytes(buffer.view(place, 3)) == b"abc"
    buffer.close()
    del raised, buffer  # a mapping has a descriptor of its own, and is in a ring
    gc.collect()
