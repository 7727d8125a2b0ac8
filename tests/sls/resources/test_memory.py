"""Address spaces: private and shared mappings, heaps, what madvise(2) and mlock(2) say of them."""

from pathlib import Path

import pytest

from sls.capture import Tracer
from sls.resources import MemoryRecord
from tests.mounts import wait_until
from tests.sls.apart import Program, apart
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


@pytest.mark.root
def test_advice_and_locks_given_between_deltas(tmp_path: Path, binaries: Path) -> None:
    """They change nothing that maps shows, and all that smaps does."""

    def capture_often() -> None:
        def advice() -> list[tuple[str, ...]]:
            states = tracer.capture(program.tree, full=False, track=True).image.processes[0].states
            vmas = {
                one.start: one
                for kind in states
                if isinstance(kind, MemoryRecord)
                for one in kind.vmas
            }
            return [vmas[int(line)].advice for line in program.lines()[1:3]]

        tracer = Tracer()
        assert not advice()
        (tmp_path / "go").touch()
        wait_until(lambda: len(program.lines()) == 3)
        wait_until(lambda: advice() == [("lo",), ("dc",)])

    command = [*command_of("advise_later.c", binaries), str(tmp_path / "go")]
    with Program(command, tmp_path) as program:
        wait_until(lambda: program.lines() == ["ready"])
        apart(capture_often)


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
