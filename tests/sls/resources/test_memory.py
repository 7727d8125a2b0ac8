"""Address spaces: private and shared mappings, heaps, what madvise(2) and mlock(2) say of them."""

from pathlib import Path

import pytest

from tests.sls.conftest import Kept, Refused
from tests.sls.driver import Way, command_of, run

CASES = [
    pytest.param("heap", id="205-heap"),
    pytest.param("anonymous", id="207-anonymous"),
    pytest.param("shared", id="213-shared"),
    pytest.param("list", id="list-over-2000-mappings"),
    pytest.param("brk", id="brk"),
]


@pytest.mark.parametrize("case", CASES)
def test_memory(kept: Kept, case: str) -> None:
    kept("mappings.c", case)


@pytest.mark.parametrize(
    "case", ["advise", "lock", "lock-future", "guard", "grow", "spread", "seal", "split"]
)
def test_memory_advice_locks_and_kinds(kept: Kept, case: str) -> None:
    kept("advice.c", case)


def test_as_many_mappings_as_there_may_be(refused: Refused) -> None:
    words = refused("no_room_inside.c")
    assert "address space: no room for 256 KiB of ours" in words


def test_x26_asynchronous_io_is_refused(refused: Refused) -> None:
    assert "io_setup(2)" in refused("aio.c")


@pytest.mark.root
def test_a_mapped_file_that_has_changed_is_told(tmp_path: Path, binaries: Path) -> None:
    command = [*command_of("mapped.c", binaries), str(tmp_path / "go"), "file"]
    mapped = tmp_path / "file"
    mapped.write_bytes(bytes(range(256)) * 16)
    outcome = run(command, tmp_path, Way.RESTORED, between=lambda: mapped.touch())
    assert "file has changed since the checkpoint; put the old file back" in outcome.failure


def test_zeroed_pages_of_a_mapped_file(kept: Kept) -> None:
    kept("zeroed.c")
