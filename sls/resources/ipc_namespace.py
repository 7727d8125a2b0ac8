"""IPC namespaces (ipc_namespaces(7)) without objects, with their limits; of a process or of single threads.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it.

Not kept: System V objects and POSIX message queues in a namespace of its own: refused.
Kernel: Linux 3.8.
"""

import os
from functools import partial
from typing import Final, NamedTuple

from sls import syscalls
from sls.freeze import FrozenThread
from sls.remote import Remote
from sls.resources.base import CapturedProcess, RestoreContext
from sls.resources.own_namespace import ThreadNamespace, ThreadNamespaceRecord

_CLONE_NEWNS, _MS_REC_PRIVATE = 0x00020000, 0x4000 | 0x40000
_OBJECTS: Final = {"shm": "shared memory", "sem": "semaphores", "msg": "message queues"}
_LIMITS: Final = (
    *(f"kernel/{name}" for name in ("shmmax", "shmall", "shmmni", "shm_rmid_forced")),
    *(f"kernel/{name}" for name in ("msgmax", "msgmnb", "msgmni", "sem")),
    *(f"fs/mqueue/{name}" for name in ("queues_max", "msg_max", "msgsize_max")),
    *(f"fs/mqueue/{name}" for name in ("msg_default", "msgsize_default")),
)


class IpcNamespaceRecord(ThreadNamespaceRecord, frozen=True, tag="ipc-namespace"):
    """`limits`: files of /proc/sys."""

    limits: tuple[tuple[str, bytes], ...] = ()


class IpcNamespace(ThreadNamespace[IpcNamespaceRecord]):
    """Where System V objects and message queues are looked for."""

    name, flag = "ipc", 0x08000000
    record = IpcNamespaceRecord

    def capture_own(
        self, process: CapturedProcess, thread: FrozenThread, link: bytes
    ) -> Remote[IpcNamespaceRecord]:
        yield from ()
        look = partial(self.look_inside, thread.tid, _look, _Inside)
        inside: _Inside = process.looks.of(("inside", link), look)
        if inside.objects:
            raise process.unsupported(
                "namespaces",
                f"an ipc namespace of its own with {' and '.join(inside.objects)} in it cannot be made again; "
                "remove them or run it on the machine's",
            )
        return IpcNamespaceRecord(link=link, limits=tuple(inside.limits))

    def settle(self, ctx: RestoreContext, record: IpcNamespaceRecord) -> None:
        for name, limit in record.limits:
            if _read(name) != limit:
                with open(f"/proc/sys/{name}", "wb", buffering=0) as file:
                    file.write(limit)


class _Inside(NamedTuple):
    objects: list[str]
    limits: list[tuple[str, bytes]]


def _look() -> _Inside:
    """In a child, in the namespace. The filesystem of message queues shows those of who mounts it."""
    objects = [words for name, words in _OBJECTS.items() if _lines(f"/proc/sysvipc/{name}") > 1]
    limits = [(name, limit) for name in _LIMITS if (limit := _read(name)) is not None]
    syscalls.syscall("unshare", _CLONE_NEWNS)
    syscalls.mount(b"none", b"/", b"", _MS_REC_PRIVATE)
    syscalls.mount(b"none", b"/proc", b"mqueue", 0)
    if os.listdir("/proc"):
        objects.append("POSIX message queues")
    return _Inside(objects, limits)


def _lines(path: str) -> int:
    with open(path, "rb") as file:
        return len(file.readlines())


def _read(name: str) -> bytes | None:
    try:
        with open(f"/proc/sys/{name}", "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None  # a kernel without it
