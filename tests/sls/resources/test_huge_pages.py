"""Huge pages: memory, files of hugetlbfs, System V segments; without enough of them a restore says what is missing."""

import fcntl
import mmap
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from sls import proc
from sls.resources.huge_pages import MAP_HUGETLB
from tests.sls.conftest import Kept

POOL = Path("/proc/sys/vm/nr_hugepages")
SIZES = Path("/sys/kernel/mm/hugepages")
NEEDED = 12


@pytest.fixture
def page_bytes() -> Iterator[int]:
    """The usual size of huge pages, of which there are enough meanwhile. The pool is the whole machine's."""
    fields = proc.Fields(Path("/proc/meminfo").read_bytes())
    if "Hugepagesize" not in Path("/proc/meminfo").read_text():
        pytest.skip("no huge pages in this kernel")
    kilobytes = int(fields["Hugepagesize"].split()[0])
    with alone(SIZES / f"hugepages-{kilobytes}kB"), more_pages():
        if proc.free_huge_pages(kilobytes << 10) < NEEDED:
            pytest.skip("huge pages cannot be had: /proc/sys/vm/nr_hugepages does not rise")
        yield kilobytes << 10


@contextmanager
def alone(pool: Path) -> Iterator[None]:
    """One test of all that run on the machine: sysfs is the same for them, wherever they are."""
    with (pool / "nr_hugepages").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def more_pages() -> Iterator[None]:
    taken = 0
    try:
        with suppress(PermissionError):
            before = int(POOL.read_text())
            POOL.write_text(str(before + NEEDED))
            taken = int(POOL.read_text()) - before
        yield
    finally:
        with suppress(PermissionError):  # others may have changed it meanwhile
            POOL.write_text(str(int(POOL.read_text()) - taken))


@pytest.fixture
def hugetlbfs(tmp_path: Path) -> Iterator[Path]:
    """Mounted there for the test, if it does not unmount it."""
    place = tmp_path / "huge"
    place.mkdir()
    mount(place)
    try:
        yield place
    finally:
        if place.is_mount():
            unmount(place)


def mount(place: Path) -> None:
    subprocess.run(["mount", "-t", "hugetlbfs", "none", str(place)], check=True)


def unmount(place: Path) -> None:
    subprocess.run(["umount", str(place)], check=True)


def take_all_but(left: int, page_bytes: int) -> Callable[[], None]:
    """Somebody else has huge pages, until what is returned is called."""
    pages = proc.free_huge_pages(page_bytes) - left
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_HUGETLB
    return mmap.mmap(-1, pages * page_bytes, flags).close


def test_huge_pages(kept: Kept, page_bytes: int) -> None:
    assert not kept("huge.c", page_bytes >> 10).losses


def test_too_few_huge_pages(conflict: Kept, page_bytes: int) -> None:
    """The restore says how many are needed, and works when they are free again."""
    take = partial(take_all_but, 2, page_bytes)
    outcome = conflict("huge.c", page_bytes >> 10, between=take)
    words = f"huge pages of {page_bytes >> 10} kB are needed, 2 are free; raise"
    assert words in outcome.refusal


def test_files(kept: Kept, page_bytes: int, hugetlbfs: Path) -> None:
    outcome = kept("huge_file.c", page_bytes >> 10, hugetlbfs)
    assert not outcome.losses
    assert not outcome.notes


def test_files_of_a_filesystem_that_is_new(
    restored: Kept, page_bytes: int, hugetlbfs: Path
) -> None:
    """As after a reboot: memory is gone, and so is every name."""

    def begin_anew() -> None:
        unmount(hugetlbfs)
        mount(hugetlbfs)

    assert not restored("huge_file.c", page_bytes >> 10, hugetlbfs, between=begin_anew).notes


def test_a_file_that_others_use(restored: Kept, page_bytes: int, hugetlbfs: Path) -> None:
    """It keeps the bytes that it has: here they are those of the checkpoint."""
    held: list[int] = []

    def hold() -> None:
        held.append(os.open(hugetlbfs / "named", os.O_RDONLY))

    outcome = restored("huge_file.c", page_bytes >> 10, hugetlbfs, between=hold)
    assert {one.detail for one in outcome.notes} == {
        f"{hugetlbfs}/named is in use by others: its bytes stay"
    }


def test_no_hugetlbfs(conflict: Kept, page_bytes: int, hugetlbfs: Path) -> None:
    """Nothing is made of common pages instead."""

    def take() -> Callable[[], None]:
        unmount(hugetlbfs)
        return partial(mount, hugetlbfs)

    outcome = conflict("huge_file.c", page_bytes >> 10, hugetlbfs, between=take)
    words = f"is of a hugetlbfs with pages of {page_bytes >> 10} kB, which is not there; mount it"
    assert words in outcome.refusal


@pytest.mark.parametrize("left", [0, 3, 5])
def test_too_few_for_files(conflict: Kept, page_bytes: int, hugetlbfs: Path, left: int) -> None:
    """Whoever wants the first that is not there says so: private memory, contents, then mappings."""

    def take() -> Callable[[], None]:
        unmount(hugetlbfs)
        mount(hugetlbfs)
        return take_all_but(left, page_bytes)

    outcome = conflict("huge_file.c", page_bytes >> 10, hugetlbfs, between=take)
    assert f"huge pages of {page_bytes >> 10} kB are needed" in outcome.refusal


@pytest.mark.parametrize("case", [(), ("apart",)], ids=["in ours", "apart"])
def test_segments(kept: Kept, page_bytes: int, case: tuple[str, ...]) -> None:
    outcome = kept("huge_segment.c", page_bytes >> 10, *case)
    assert not outcome.losses
    assert not outcome.notes


@pytest.fixture
def remove_segments() -> Callable[[], None]:
    """Removes what the test's program has left."""
    others = {one.identifier for one in proc.sysv_segments()}

    def remove() -> None:
        for one in proc.sysv_segments():
            if one.identifier not in others:
                subprocess.run(["ipcrm", "-m", str(one.identifier)], check=True)

    return remove


def test_segments_that_are_gone(
    restored: Kept, page_bytes: int, remove_segments: Callable[[], None]
) -> None:
    assert not restored("huge_segment.c", page_bytes >> 10, between=remove_segments).notes


def test_too_few_for_segments(
    conflict: Kept, page_bytes: int, remove_segments: Callable[[], None]
) -> None:
    def take() -> Callable[[], None]:
        remove_segments()
        return take_all_but(1, page_bytes)

    outcome = conflict("huge_segment.c", page_bytes >> 10, between=take)
    words = f"2 huge pages of {page_bytes >> 10} kB are needed, 1 are free; raise"
    assert words in outcome.refusal
