"""What /proc and plain system calls show of a process that waits: all of it must be equal after a capture.

Left out is what goes on by itself: clocks, counters, the state of threads that wake to look for go.
"""

import fcntl
import os
import re
import struct
import termios
from collections.abc import Iterable, Iterator

from sls import proc, syscalls
from sls.errors import TaskDiedError

_MANY_BYTES = 1 << 17
_MOVING = re.compile(rb"^(it_value|ticks|Sq\w+Time|SqThreadCpu):.*\n", re.MULTILINE)
_FILES = (
    "maps", "limits", "timers", "cgroup", "personality", "oom_score_adj", "coredump_filter", "cmdline", "environ",
    "auxv", "timens_offsets", "uid_map",
)  # fmt: skip
_LINKS = ("exe", "cwd", "root", *(f"ns/{name}" for name in proc.NAMESPACES))
_STATUS = (
    "Name", "Umask", "Tgid", "PPid", "TracerPid", "Uid", "Gid", "Groups", "FDSize", "Kthread", "VmLck", "VmPin",
    "Threads", "SigPnd", "ShdPnd", "SigBlk", "SigIgn", "SigCgt", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb",
    "NoNewPrivs", "Seccomp", "Seccomp_filters", "Cpus_allowed", "Mems_allowed",
)  # fmt: skip
_STAT = (
    "pgrp",
    "session",
    "terminal",
    "foreground",
    "exit_signal",
    "nice",
    "rt_priority",
    "policy",
)
# where bytes come by themselves: TCP moves them from one end to the other, raw and packet sockets hear anyone's
_HEARING = ("tcp", "raw", "packet")
_NET = ("tcp", "tcp6", "udp", "udp6", "raw", "raw6", "unix", "netlink", "packet")


def visible_state(pid: int) -> dict[str, object]:
    """Names of facts, and what they are."""
    state: dict[str, object] = {name: _text(pid, name) for name in _FILES}
    state |= {name: _link(pid, name) for name in _LINKS}
    stat = proc.stat(pid)
    state |= {name: getattr(stat, name) for name in _STAT}
    if not has_very_many_mappings(pid):
        state["VmFlags"] = proc.parse_smaps_flags(proc.read(pid, "smaps"))
    for tid in proc.entries(pid, "task"):
        status = proc.status(pid, tid)
        state |= {f"task/{tid}/{name}": status.get(name) for name in _STATUS}
        state[f"task/{tid}/comm"] = _text(pid, f"task/{tid}/comm")
        state[f"task/{tid}/timerslack_ns"] = _text(tid, "timerslack_ns")
        state[f"task/{tid}/scheduler"] = syscalls.scheduler(tid)
        state[f"task/{tid}/io priority"] = syscalls.io_priority(tid)
    return state | dict(_descriptors(pid))


def is_anyone_running(pids: Iterable[int]) -> bool:
    """Whether any thread runs, waits for a disk or has just ended: what it shows may be another thing soon."""
    try:
        tasks = [tid for pid in pids for tid in proc.entries(pid, "task")]
        return any(proc.stat(tid).state in "RD" for tid in tasks)
    except TaskDiedError:
        return True


def has_very_many_mappings(pid: int) -> bool:
    """Whether each look at them takes the kernel seconds."""
    return len(proc.read(pid, "maps")) > _MANY_BYTES


def _descriptors(pid: int) -> Iterator[tuple[str, object]]:
    sockets = dict(_sockets())
    pidfd = os.pidfd_open(pid)
    try:
        for fd in proc.entries(pid, "fd"):
            target = proc.link(pid, f"fd/{fd}")
            yield f"fd/{fd}", target
            yield f"fdinfo/{fd}", _MOVING.sub(b"", proc.read(pid, f"fdinfo/{fd}"))
            known = sockets.get(target)
            yield f"fd/{fd} socket", known
            waiting = _looked_at(syscalls.pidfd_getfd(pidfd, fd))
            yield (
                f"fd/{fd} waiting",
                waiting[:-1] if known and known[0].startswith(_HEARING) else waiting,
            )
    finally:
        os.close(pidfd)


def _looked_at(fd: int) -> tuple[object, ...]:
    """Kind, owner, size, flags and bytes that wait."""
    try:
        status = os.fstat(fd)
        flags = fcntl.fcntl(fd, fcntl.F_GETFL)
        try:
            waiting = struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0]
        except OSError:
            waiting = None
        size = status.st_size, status.st_nlink, status.st_uid, status.st_gid
        return status.st_mode, *size, flags, waiting
    finally:
        os.close(fd)


def _sockets() -> Iterator[tuple[bytes, list[str]]]:
    """Table, addresses and state by link; of TCP, whose ends move on by themselves, the addresses; raw: no queue."""
    inode_at = {"unix": 6, "packet": 8}
    shown_of = {"tcp": slice(1, 3), "raw": slice(1, 4)}
    for name in _NET:
        shown = shown_of.get(name.removesuffix("6"), slice(1, 5))
        at = inode_at.get(name, 9)
        for row in proc.net_table(name):
            if len(row) > at:
                yield b"socket:[%s]" % row[at].encode(), [name, *row[shown]]


def _text(pid: int, name: str) -> bytes | None:
    try:
        return proc.read(pid, name)
    except (TaskDiedError, OSError):
        return None


def _link(pid: int, name: str) -> bytes | None:
    try:
        return proc.link(pid, name)
    except TaskDiedError:
        return None
