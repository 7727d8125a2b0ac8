"""Huge pages (hugetlbfs) of memory that has no file: kept; without enough of them a restore says so."""

import mmap
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sls import proc
from tests.sls.conftest import Kept, Refused

POOL = Path("/proc/sys/vm/nr_hugepages")
NEEDED = 12


@pytest.fixture
def page_bytes() -> Iterator[int]:
    """The usual size of huge pages, of which there are enough meanwhile."""
    fields = proc.Fields(Path("/proc/meminfo").read_bytes())
    if "Hugepagesize" not in Path("/proc/meminfo").read_text():
        pytest.skip("no huge pages in this kernel")
    size = int(fields["Hugepagesize"].split()[0]) << 10
    taken = 0
    try:
        with suppress(PermissionError):
            before = int(POOL.read_text())
            POOL.write_text(str(before + NEEDED))
            taken = int(POOL.read_text()) - before
        if proc.free_huge_pages(size) < NEEDED:
            pytest.skip("huge pages cannot be had: /proc/sys/vm/nr_hugepages does not rise")
        yield size
    finally:
        with suppress(PermissionError):  # others may have changed it meanwhile
            POOL.write_text(str(int(POOL.read_text()) - taken))


def test_huge_pages(kept: Kept, page_bytes: int) -> None:
    kept("huge.c", page_bytes >> 10)


def test_too_few_huge_pages(conflict: Kept, page_bytes: int) -> None:
    """Somebody else has taken them: the restore says how many are needed, and works when they are free again."""

    def take() -> object:
        pages = proc.free_huge_pages(page_bytes) - 2
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000
        return mmap.mmap(-1, pages * page_bytes, flags).close

    outcome = conflict("huge.c", page_bytes >> 10, between=take)
    words = f"huge pages of {page_bytes >> 10} kB are needed, 2 are free; raise"
    assert words in outcome.refusal


def test_x26_hugetlbfs_files_are_refused(refused: Refused, page_bytes: int, tmp_path: Path) -> None:
    assert "hugetlbfs file or System V segment" in refused("huge_segment.c", page_bytes >> 10)
