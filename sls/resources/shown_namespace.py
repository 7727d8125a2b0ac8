"""Filesystems that show a namespace: mqueue the queues of an IPC namespace, sysfs the devices of a network namespace.

Not a resource of its own: part of mount namespaces and of message queues. Which one a filesystem shows is told by its
device number: there is one such filesystem for each namespace, wherever it is mounted (Linux 5.2 for fsmount(2)).
"""

import os
from collections.abc import Iterator, Sequence
from functools import lru_cache, partial
from typing import Final

from sls import mounts, proc
from sls.resources.base import CaptureContext, RestoreContext
from sls.stay import NEW_IPC, NEW_NET, seen_from

_MQUEUE: Final = b"mqueue"
_SHOWN: Final = {_MQUEUE: ("ipc", NEW_IPC), b"sysfs": ("net", NEW_NET)}


def shows_one(kind: bytes) -> bool:
    """Whether a filesystem of that kind is made anew in the namespace that it shows."""
    return kind in _SHOWN


def namespace_shown(ctx: CaptureContext, kind: bytes, device: int) -> bytes | None:
    """The link of the namespace; empty for ours, None for one that no member is in."""
    if device == _own_device(os.getpid(), kind):
        return b""
    known = ctx.once(("devices of", kind), lambda: dict(_devices(ctx, kind)))
    return known.get(device)


def make_shown(
    ctx: RestoreContext, kind: bytes, source: bytes, settings: Sequence[bytes], link: bytes
) -> int:
    """A descriptor of the filesystem that shows the new namespace, mounted nowhere."""
    with ctx.in_ipc(link) if kind == _MQUEUE else ctx.in_network(link):
        return mounts.fresh(kind, source, settings)


@lru_cache
def _own_device(_pid: int, kind: bytes) -> int:
    """Of this process's namespace, which it never leaves but for a stay."""
    return _device_here(kind)


def _device_here(kind: bytes) -> int:
    mount = mounts.fresh(kind, b"none", ())
    try:
        return os.fstat(mount).st_dev
    finally:
        os.close(mount)


def _devices(ctx: CaptureContext, kind: bytes) -> Iterator[tuple[int, bytes]]:
    """Of namespaces that members are in."""
    name, flag = _SHOWN[kind]
    threads = {
        proc.link(tid, f"ns/{name}"): tid
        for process in ctx.processes.values()
        for tid in process.frozen.threads
    }
    for link, tid in threads.items():
        yield seen_from(flag, tid, partial(_device_here, kind)), link
