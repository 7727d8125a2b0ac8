"""Threads: registers, locks they wait on, calls they sleep in."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("count", [5, 16, 200])
def test_209_threads_on_a_mutex_and_a_condition(kept: Kept, count: int) -> None:
    kept("condition.c", count)


def test_all_registers(kept: Kept) -> None:
    kept("registers.c")


def test_203_cpu_bound_loop(kept: Kept) -> None:
    kept("busy.c")


def test_212_sleeping_calls_keep_their_remaining_time(kept: Kept) -> None:
    kept("sleep.c")
