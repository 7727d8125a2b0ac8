"""State of a process that is neither memory nor files: directories, umask, limits, personality, prctl(2) settings.

Not kept: a removed root directory, refused; CPU time used so far; that a child's stop was told to its parent.
Kernel: Linux 4.14 (membarrier 6.3).
"""

import errno
import os
import resource
import stat
import struct
from collections.abc import Iterator
from functools import partial
from typing import Final

from sls import proc
from sls.errors import RestoreConflictError
from sls.mount_tree import MountTree
from sls.remote import Call, In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
)

_PR_SET_CHILD_SUBREAPER, _PR_GET_CHILD_SUBREAPER = 36, 37
_PR_SET_THP_DISABLE, _PR_GET_THP_DISABLE = 41, 42
_PR_SET_IO_FLUSHER, _PR_GET_IO_FLUSHER = 57, 58
_PR_SET_MDWE, _PR_GET_MDWE = 65, 66
_PR_SET_MEMORY_MERGE, _PR_GET_MEMORY_MERGE = 67, 68
_MEMBARRIER_REGISTRATIONS: Final = 1 << 9  # MEMBARRIER_CMD_GET_REGISTRATIONS, Linux 6.3
_MEMBARRIER_PRIVATE: Final = 1 << 4  # what a kernel that does not tell is taken to have registered
_UNLIMITED: Final = (1 << 64) - 1
_REMOVED: Final = b" (deleted)"


class Limit(Record, frozen=True):
    """One resource limit, getrlimit(2); -1 is unlimited."""

    number: int
    soft: int
    hard: int


class ProcessStateRecord(ProcessRecord, frozen=True, tag="process"):
    """Everything of one process that a few calls read and set. `membarrier`: the commands registered, membarrier(2)."""

    cwd: bytes
    root: bytes
    umask: int
    personality: int
    limits: tuple[Limit, ...]
    is_subreaper: bool
    thp_disabled: int
    oom_score_adj: int
    membarrier: int = 0
    memory_merge: int = 0
    write_or_execute: int = 0
    io_flusher: int = 0
    is_cwd_removed: bool = False
    coredump_filter: int | None = None  # None: of an image or a kernel that does not tell
    autogroup_nice: int = 0
    mounts: bytes = b""  # the link of the mount namespace that both directories are of; empty for the restorer's


class Process(ProcessState[ProcessStateRecord]):
    """Directories, limits and settings."""

    stage = Stage.IDENTITY
    record = ProcessStateRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[ProcessStateRecord]:
        replies = yield [
            call("prctl", _PR_GET_CHILD_SUBREAPER, Out(4)),
            call("prctl", _PR_GET_THP_DISABLE, 0, 0, 0, 0),
            call("membarrier", _MEMBARRIER_REGISTRATIONS, 0, 0),
            call("prctl", _PR_GET_MEMORY_MERGE, 0, 0, 0, 0),
            call("prctl", _PR_GET_MDWE, 0, 0, 0, 0),
            call("prctl", _PR_GET_IO_FLUSHER, 0, 0, 0, 0),
        ]
        subreaper, thp, membarrier, merge, mdwe, flusher = replies
        cwd = process.link("cwd")
        limits = process.settled("limits")
        return ProcessStateRecord(
            cwd=cwd.removesuffix(_REMOVED),
            is_cwd_removed=cwd.endswith(_REMOVED),
            root=_root(process),
            umask=int(process.status["Umask"], 8),
            personality=int(process.settled("personality"), 16),
            limits=process.memo.of("limits", limits, lambda: _limits(limits)),
            is_subreaper=any(subreaper.outputs[0]),
            thp_disabled=thp.check(),
            oom_score_adj=int(process.settled("oom_score_adj")),
            membarrier=_MEMBARRIER_PRIVATE if membarrier.failed else membarrier.value,
            memory_merge=max(0, merge.value),
            write_or_execute=max(0, mdwe.value),
            io_flusher=max(0, flusher.value),
            coredump_filter=_coredump_filter(process),
            autogroup_nice=_autogroup_nice(process),
            mounts=process.tree.link,
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: ProcessStateRecord
    ) -> Remote[None]:
        for limit in record.limits:
            yield from _set_limit(ctx, process.pid, limit)
        _set_oom_score(ctx, process.pid, record.oom_score_adj)
        _set_autogroup_nice(ctx, process.pid, record.autogroup_nice)
        if record.coredump_filter is not None:
            _write(process.pid, "coredump_filter", f"{record.coredump_filter:#x}")
        tree = ctx.trees[record.mounts]
        with ctx.as_owner():
            if record.root != b"/":
                _must_exist(tree, record.root)
            if record.is_cwd_removed:
                _make_removed(tree, record.cwd)
            _must_exist(tree, record.cwd)
        entering = [call("chdir", In(record.cwd + b"\0"))]
        if record.root != b"/":
            entering.append(call("chroot", In(record.root + b"\0")))
        calls = [
            *(ctx.calls_as_owner(entering) if _has_our_ids(process.pid) else entering),
            call("umask", record.umask),
            call("personality", record.personality),
            call("prctl", _PR_SET_CHILD_SUBREAPER, int(record.is_subreaper)),
            *_settings(record),
        ]
        yield from remote_all(calls)
        if record.is_cwd_removed:
            with ctx.as_owner(), tree.beside(record.cwd) as path:
                os.rmdir(path)


def _limits(text: bytes) -> tuple[Limit, ...]:
    """prlimit(2) would need CAP_SYS_RESOURCE over another user's process."""
    return tuple(
        Limit(number=number, soft=soft, hard=hard)
        for number, (soft, hard) in enumerate(proc.parse_limits(text))
    )


def _settings(record: ProcessStateRecord) -> Iterator[Call]:
    """What is not the default; kernels and builds differ in which of them they have."""
    for bit in range(9):
        if record.membarrier >> bit & 1:
            yield call("membarrier", 1 << bit, 0, 0)
    if record.thp_disabled:  # the bit that says so, and flags since Linux 6.18
        flags = record.thp_disabled & ~1
        yield call("prctl", _PR_SET_THP_DISABLE, 1, flags, 0, 0)
    if record.memory_merge:
        yield call("prctl", _PR_SET_MEMORY_MERGE, record.memory_merge, 0, 0, 0)
    if record.io_flusher:
        yield call("prctl", _PR_SET_IO_FLUSHER, record.io_flusher, 0, 0, 0)
    if record.write_or_execute:
        yield call("prctl", _PR_SET_MDWE, record.write_or_execute, 0, 0, 0)


def _has_our_ids(pid: int) -> bool:
    """Whether ids mean the same to it; who is in a user namespace has its own rights already."""
    return proc.link(pid, "ns/user") == proc.link(os.getpid(), "ns/user")


def _root(process: CapturedProcess) -> bytes:
    path = process.settled_link("root")
    if path.endswith(_REMOVED):
        raise process.unsupported(
            "root", f"{path.decode(errors='replace')}: a removed directory is not supported"
        )
    return path


def _make_removed(tree: MountTree, path: bytes) -> None:
    """Make a directory that the process enters before it is removed again."""
    try:
        with tree.beside(path) as name:
            os.mkdir(name)
    except OSError as error:
        raise RestoreConflictError(
            f"{path.decode(errors='replace')}, a removed working directory, cannot be made: {error.strerror}",
            error.errno or errno.ENOENT,
        ) from error


def _must_exist(tree: MountTree, path: bytes) -> None:
    """A directory that whoever it is for may enter."""
    code = errno.ENOTDIR
    try:
        with tree.reach(path) as name:
            if stat.S_ISDIR(os.stat(name + b"/.").st_mode):  # the dot: it can be searched
                return
    except OSError as error:
        code = error.errno or code
    raise RestoreConflictError(
        f"{path.decode(errors='replace')}, a working or root directory: {os.strerror(code)}; "
        "put it back and restore again",
        code,
    )


def _set_limit(ctx: RestoreContext, pid: int, limit: Limit) -> Remote[None]:
    wanted = (limit.soft, limit.hard)
    current = tuple(proc.parse_limits(proc.read(pid, "limits"))[limit.number])
    if current == wanted:
        return
    try:
        resource.prlimit(pid, limit.number, wanted)
    except (
        PermissionError,
        ValueError,
    ):  # of who is in a user namespace CAP_SYS_RESOURCE is asked in any case
        packed = struct.pack("=2Q", *(value & _UNLIMITED for value in wanted))
        (reply,) = yield [call("prlimit64", 0, limit.number, In(packed), 0)]
        if reply.failed:
            ctx.note("limits", f"limit {limit.number} cannot be raised to {wanted} here", pid)


def _set_oom_score(ctx: RestoreContext, pid: int, value: int) -> None:
    try:
        if int(proc.read(pid, "oom_score_adj")) != value:
            _write(pid, "oom_score_adj", str(value))
    except PermissionError:
        ctx.note("oom_score_adj", f"{value} cannot be set here", pid)


def _coredump_filter(process: CapturedProcess) -> int | None:
    """Which mappings a core has, core(5)."""
    text = _settled_if_there(process, "coredump_filter")
    return int(text, 16) if text else None


def _autogroup_nice(process: CapturedProcess) -> int:
    """Of the session's group for scheduling, sched(7); without CONFIG_SCHED_AUTOGROUP there is none."""
    text = _settled_if_there(process, "autogroup")
    return int(text.rpartition(b"nice ")[2]) if text else 0


def _set_autogroup_nice(ctx: RestoreContext, pid: int, nice: int) -> None:
    """A new session's group has 0."""
    try:
        if nice:
            _write(pid, "autogroup", str(nice))
    except OSError as error:
        ctx.note("autogroup", f"nice {nice} cannot be set here: {error.strerror}", pid)


def _settled_if_there(process: CapturedProcess, name: str) -> bytes:
    """A file of /proc that not every kernel has; empty then."""
    look = partial(_read_if_there, process.tid, name)
    return process.looks.at_leisure(("read if there", name), look)


def _read_if_there(tid: int, name: str) -> bytes:
    return proc.reread(tid, name) if os.path.exists(f"/proc/{tid}/{name}") else b""


def _write(pid: int, name: str, text: str) -> None:
    with open(f"/proc/{pid}/{name}", "w", encoding="ascii") as file:
        file.write(text)
