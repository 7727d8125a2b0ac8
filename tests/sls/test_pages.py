"""Sets of address ranges, against sets of pages; what the tracking of pages costs in the program."""

import time
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls import proc
from sls.capture import Tracer
from sls.ranges import difference, intersection, merged, total_bytes
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
