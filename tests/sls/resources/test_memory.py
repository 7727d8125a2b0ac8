"""Address spaces: private and shared mappings, heaps, what madvise(2) and mlock(2) say of them."""

import pytest

from tests.sls.conftest import Kept

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
