"""A second thread for what is copied while members stand still: two processors move more bytes than one.

Only for work that makes no ptrace(2) calls, which belong to one thread, and that lets go of the interpreter.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache

from sls.priority import put_first


def _start() -> None:
    with suppress(PermissionError):
        put_first()  # whoever waits for it holds others still


@lru_cache(maxsize=1)
def _pool(pid: int) -> ThreadPoolExecutor:
    """One thread, made when first wanted; a fork has none."""
    return ThreadPoolExecutor(1, "sls-helper", _start)


@lru_cache(maxsize=1)
def _processors() -> int:
    """How many there are: a file of sysfs, which is not to be read while members stand still."""
    return os.cpu_count() or 1


def run_both(one: Callable[[], object], other: Callable[[], object]) -> None:
    """Run both at the same time; when they have ended, raise what went wrong in either."""
    if _processors() < 2:
        one()
        other()
        return
    future = _pool(os.getpid()).submit(other)
    try:
        one()
    finally:
        error = future.exception()
    if error is not None:
        raise error
