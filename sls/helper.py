"""A second thread for what is copied or scanned while members stand still: two processors do more than one.

Only for work that makes no ptrace(2) calls, which belong to one thread, and that lets go of the interpreter. A
`CallThread` needs no interpreter at all: to hand that to and fro takes longer than the calls.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from typing import Final

import numpy as np

from sls.priority import put_first
from sls.syscalls import CALL_LOOP, CallTable, machine_code, syscall

_FUTEX_WAIT_PRIVATE: Final = 128
_FUTEX_WAKE_PRIVATE: Final = 129

# void serve(struct { int begin, done; long *table; } *): for ever. x86-64, System V ABI; the table as in CallTable.
_SERVE: Final = (
    bytes.fromhex(
        "41 54 41 57"  # push r12; push r15
        "49 89 fc"  # mov r12, rdi
        # wait:
        "41 8b 04 24"  # mov eax, [r12]
        "83 f8 00"  # cmp eax, 0
        "75 16"  # jne begin
        "b8 ca 00 00 00"  # mov eax, 202 (futex)
        "4c 89 e7"  # mov rdi, r12
        "be 80 00 00 00"  # mov esi, FUTEX_WAIT_PRIVATE
        "31 d2"  # xor edx, edx
        "45 31 d2"  # xor r10d, r10d
        "0f 05"  # syscall
        "eb e1"  # jmp wait
        # begin:
        "41 c7 04 24 00 00 00 00"  # mov dword [r12], 0
        "4d 8b 7c 24 08"  # mov r15, [r12+8]
    )
    + CALL_LOOP
    + bytes.fromhex(
        "41 c7 44 24 04 01 00 00 00"  # mov dword [r12+4], 1
        "b8 ca 00 00 00"  # mov eax, 202 (futex)
        "49 8d 7c 24 04"  # lea rdi, [r12+4]
        "be 81 00 00 00"  # mov esi, FUTEX_WAKE_PRIVATE
        "ba 01 00 00 00"  # mov edx, 1
        "0f 05"  # syscall
        "eb 87"  # jmp wait
    )
)


def _start() -> None:
    with suppress(PermissionError):
        put_first()  # whoever waits for it holds others still


class CallThread:
    """A thread that makes the calls of one table after the other, each begun by `start` and ended by `wait`."""

    def __init__(self) -> None:
        self._words = np.zeros(4, np.uint32)  # begin, done, and 64 bits for the table
        self._table: CallTable | None = None
        threading.Thread(target=self._run, name="sls-calls", daemon=True).start()

    def _run(self) -> None:
        _start()
        machine_code(_SERVE)(self._words.ctypes.data)

    @property
    def is_free(self) -> bool:
        return self._table is None

    def start(self, table: CallTable) -> None:
        """Have the calls made. The table and what it points to belong to the thread until `wait`."""
        assert self._table is None, "one table at a time"
        self._table = table
        self._words.view(np.uint64)[1] = table.address
        self._words[:2] = 1, 0
        syscall("futex", self._words.ctypes.data, _FUTEX_WAKE_PRIVATE, 1)

    def wait(self) -> None:
        """Until the calls are made."""
        while not self._words[1]:
            with suppress(BlockingIOError, InterruptedError):  # it is done; a signal
                syscall("futex", self._words[1:].ctypes.data, _FUTEX_WAIT_PRIVATE, 0, 0)
        self._table = None


_call_threads: dict[int, CallThread] = {}  # of this process: threads do not survive a fork


def call_thread() -> CallThread | None:
    """The one of this process, if it is free; None where there is no processor for it."""
    pid = os.getpid()
    if _processors() < 2:
        return None
    if pid not in _call_threads:
        _call_threads.clear()
        _call_threads[pid] = CallThread()
    thread = _call_threads[pid]
    return thread if thread.is_free else None


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
