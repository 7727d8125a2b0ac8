"""System V semaphores: values, owners, last users, and what a process's end undoes."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.sls.conftest import Kept
from tests.sls.sysv import remove_noted


@pytest.fixture(autouse=True)
def none_left(tmp_path: Path) -> Iterator[None]:
    yield
    remove_noted("sem", tmp_path)


@pytest.mark.parametrize("case", ["mine", "unused"])
def test_sysv_semaphores(kept: Kept, case: str) -> None:
    assert not kept("sysv_semaphore.c", case).notes


@pytest.mark.parametrize("case", ["mine", "unused"])
def test_sysv_semaphores_that_are_gone(restored: Kept, tmp_path: Path, case: str) -> None:
    outcome = restored("sysv_semaphore.c", case, between=lambda: remove_noted("sem", tmp_path))
    told = {"nobody had used it" in note.detail for note in outcome.notes}
    assert told == ({True} if case == "unused" else set())
