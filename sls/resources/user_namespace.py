"""User namespaces (user_namespaces(7)): which ids are mapped to which, whose it is; rights in it are `credentials`.

A namespace that is the restorer's stays that; any other is made anew, once for all processes that were in it, with
those that it is within. Who comes to it by itself gets its ids before, for there are such as have no name inside;
rights of the restorer end there. Namespaces that belong to it are made in it.

Not kept: nothing.
Kernel: Linux 4.11 (ioctl_ns(2)).
"""

import os
import struct
from functools import partial
from typing import Final, NamedTuple

from sls import proc, syscalls
from sls.child import held_child, told_by_child
from sls.remote import Call, In, Remote, call
from sls.resources.base import CaptureContext, CapturedProcess, Record, RestoreContext
from sls.resources.own_namespace import (
    NEW_USER,
    ProcessNamespace,
    ProcessNamespaceRecord,
    lineage,
)

_PR_SET_SECUREBITS: Final = 28
_KEEP_CAPABILITIES: Final = 1 << 4 | 1 << 2  # KEEP_CAPS and NO_SETUID_FIXUP
_NS_GET_OWNER_UID: Final = 0xB704


class Level(Record, frozen=True):
    """One user namespace. `uid_map`, `gid_map`: to ids of the one that it is within; `owner_uid`: the restorer's id."""

    link: bytes
    owner_uid: int
    uid_map: bytes
    gid_map: bytes
    allows_setgroups: bool


class UserNamespaceRecord(ProcessNamespaceRecord, frozen=True, tag="user-namespace"):
    """`levels`: the outermost first, the process's own last.

    `uids`, `gids` (real, effective, saved, filesystem) and `groups`: the process's, as the restorer sees them.
    """

    levels: tuple[Level, ...] = ()
    uids: tuple[int, ...] = ()
    gids: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()


class UserNamespace(ProcessNamespace[UserNamespaceRecord]):
    """What ids mean."""

    name, flag = "user", NEW_USER
    record = UserNamespaceRecord

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[UserNamespaceRecord]:
        yield from ()
        link = self.own_link(ctx, process, process.tid)
        if not link:
            return UserNamespaceRecord()
        look = partial(_levels, process.tid)
        return UserNamespaceRecord(
            link=link,
            levels=process.looks.at_leisure("user namespaces", look),
            uids=tuple(map(int, process.status["Uid"].split())),
            gids=tuple(map(int, process.status["Gid"].split())),
            groups=tuple(map(int, process.status["Groups"].split())),
        )

    def alone(self, ctx: RestoreContext, record: UserNamespaceRecord, pid: int) -> list[Call]:
        namespace = ctx.user_namespaces.get(ctx.stops_at.get(pid, record.link))
        here = proc.link(pid, "ns/user")
        if namespace is None or here == proc.link(os.getpid(), f"fd/{namespace}"):
            return []
        is_ours = here == proc.link(os.getpid(), "ns/user")
        ids = _take_ids(record) if is_ours else []
        return [*ids, call("setns", namespace, NEW_USER)]

    def _make(self, ctx: RestoreContext, record: UserNamespaceRecord) -> int:
        """Those that it is within may be there already, for others."""
        above = -1
        for level in record.levels:
            if level.link not in ctx.user_namespaces:
                made = told_by_child(partial(_made, level, above), int)
                ctx.user_namespaces[level.link] = ctx.inheritable(ctx.opened(made))
            above = ctx.user_namespaces[level.link]
        return above


# --- capture --------------------------------------------------------------------------------------------------------


class _Maps(NamedTuple):
    uid_map: bytes
    gid_map: bytes
    setgroups: bytes


def _levels(tid: int) -> tuple[Level, ...]:
    descriptors = lineage(tid)
    try:
        return tuple(_level(fd) for fd in reversed(descriptors))
    finally:
        for fd in descriptors:
            os.close(fd)


def _level(fd: int) -> Level:
    maps = told_by_child(lambda: _look(fd), _Maps)
    uid = bytearray(4)
    syscalls.syscall_on("ioctl", fd, _NS_GET_OWNER_UID, uid)
    return Level(
        link=proc.link(os.getpid(), f"fd/{fd}"),
        owner_uid=int.from_bytes(uid, "little"),
        uid_map=maps.uid_map,
        gid_map=maps.gid_map,
        allows_setgroups=maps.setgroups == b"allow\n",
    )


def _look(fd: int) -> _Maps:
    """In a child: who looks from within sees ids of the namespace above."""
    syscalls.syscall("setns", fd, NEW_USER)
    return _Maps(*(proc.read(os.getpid(), name) for name in _Maps._fields))


# --- restore --------------------------------------------------------------------------------------------------------


def _take_ids(record: UserNamespaceRecord) -> list[Call]:
    """While the process may still have any; its capabilities stay until it is there."""
    packed = struct.pack(f"={len(record.groups)}I", *record.groups)
    return [
        call("prctl", _PR_SET_SECUREBITS, _KEEP_CAPABILITIES),
        call("setgroups", len(record.groups), In(packed) if packed else 0),
        call("setresgid", *record.gids[:3]),
        call("setfsgid", record.gids[3]),
        call("setresuid", *record.uids[:3]),
        call("setfsuid", record.uids[3]),
    ]


def _made(level: Level, above: int) -> int:
    """In a child. The owner makes it; who writes the maps is in the one above as well, by its own rights."""
    processes = os.open("/proc", os.O_PATH | os.O_CLOEXEC)
    try:
        with held_child(partial(_become_owner, level, above)) as pid:
            made = os.open(f"{pid}/ns/user", os.O_RDONLY | os.O_CLOEXEC, dir_fd=processes)
            if above >= 0:
                syscalls.syscall("setns", above, NEW_USER)
            if not level.allows_setgroups:
                _write(processes, f"{pid}/setgroups", b"deny")
            if level.uid_map:
                _write(processes, f"{pid}/uid_map", level.uid_map)
            if level.gid_map:
                _write(processes, f"{pid}/gid_map", level.gid_map)
            return made
    finally:
        os.close(processes)


def _become_owner(level: Level, above: int) -> None:
    if level.owner_uid:
        syscalls.take_identity(level.owner_uid, level.owner_uid, ())
    if above >= 0:
        syscalls.syscall("setns", above, NEW_USER)
    syscalls.syscall("unshare", NEW_USER)


def _write(processes: int, name: str, text: bytes) -> None:
    fd = os.open(name, os.O_WRONLY | os.O_CLOEXEC, dir_fd=processes)
    try:
        os.write(fd, text)  # a map is taken in one write
    finally:
        os.close(fd)
