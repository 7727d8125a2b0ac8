"""A stay of the calling thread in another network or IPC namespace (setns(2)); it ends with the `with` block.

Other threads stay where they are. Knows no resource.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

from sls import syscalls

NEW_IPC: Final = 0x08000000
NEW_NET: Final = 0x40000000
_NAMES: Final = {NEW_IPC: "ipc", NEW_NET: "net"}
T = TypeVar("T")


@contextmanager
def stay(kind: int, namespace: int) -> Iterator[None]:
    """Calls within are made in that namespace; what is opened there stays of it. `kind`: its flag of clone(2)."""
    home = os.open(f"/proc/thread-self/ns/{_NAMES[kind]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        syscalls.syscall("setns", namespace, kind)
        try:
            yield
        finally:
            syscalls.syscall("setns", home, kind)
    finally:
        os.close(home)


@contextmanager
def stay_with(kind: int, tid: int) -> Iterator[None]:
    """The same in the namespace that a thread is in."""
    namespace = os.open(f"/proc/{tid}/ns/{_NAMES[kind]}", os.O_RDONLY | os.O_CLOEXEC)
    try:
        with stay(kind, namespace):
            yield
    finally:
        os.close(namespace)


def seen_from(kind: int, tid: int, look: Callable[[], T]) -> T:
    """What `look` finds in the namespace that a thread is in."""
    with stay_with(kind, tid):
        return look()
