"""State of a process that is neither memory nor files: directories, umask, limits, personality, prctl(2) settings."""

import os
import resource
from typing import Final

from sls import proc
from sls.errors import RestoreConflictError
from sls.remote import In, Out, Remote, call, remote_all
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
_PR_SET_TIMERSLACK, _PR_GET_TIMERSLACK = 29, 30
_LIMITS: Final = range(16)


class Limit(Record, frozen=True):
    """One resource limit, getrlimit(2); -1 is unlimited."""

    number: int
    soft: int
    hard: int


class ProcessStateRecord(ProcessRecord, frozen=True, tag="process"):
    """Everything of one process that a few calls read and set."""

    cwd: bytes
    root: bytes
    umask: int
    personality: int
    limits: tuple[Limit, ...]
    is_subreaper: bool
    thp_disabled: int
    timer_slack_ns: int
    oom_score_adj: int


class Process(ProcessState[ProcessStateRecord]):
    """Directories, limits and settings."""

    stage = Stage.IDENTITY
    record = ProcessStateRecord

    def capture(self, ctx: CaptureContext, process: CapturedProcess) -> Remote[ProcessStateRecord]:
        replies = yield [
            call("prctl", _PR_GET_CHILD_SUBREAPER, Out(4)),
            call("prctl", _PR_GET_THP_DISABLE, 0, 0, 0, 0),
            call("prctl", _PR_GET_TIMERSLACK),
        ]
        subreaper, thp, slack = replies
        pid = process.tid
        return ProcessStateRecord(
            cwd=_directory(process, "cwd"),
            root=_directory(process, "root"),
            umask=int(process.status["Umask"], 8),
            personality=int(proc.read(pid, "personality"), 16),
            limits=tuple(
                Limit(number=number, soft=soft, hard=hard)
                for number in _LIMITS
                for soft, hard in (resource.prlimit(pid, number),)
            ),
            is_subreaper=any(subreaper.outputs[0]),
            thp_disabled=thp.check(),
            timer_slack_ns=slack.check(),
            oom_score_adj=int(proc.read(pid, "oom_score_adj")),
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: ProcessStateRecord
    ) -> Remote[None]:
        for limit in record.limits:
            _set_limit(ctx, process.pid, limit)
        _set_oom_score(ctx, process.pid, record.oom_score_adj)
        if record.root != b"/":
            _must_exist(record.root)
        _must_exist(record.cwd)
        calls = [
            call("chdir", In(record.cwd + b"\0")),
            call("umask", record.umask),
            call("personality", record.personality),
            call("prctl", _PR_SET_CHILD_SUBREAPER, int(record.is_subreaper)),
            call("prctl", _PR_SET_TIMERSLACK, record.timer_slack_ns),
            call("prctl", _PR_SET_THP_DISABLE, record.thp_disabled, 0, 0, 0),
        ]
        if record.root != b"/":
            calls.insert(1, call("chroot", In(record.root + b"\0")))
        yield from remote_all(calls)


def _directory(process: CapturedProcess, name: str) -> bytes:
    path = proc.link(process.tid, name)
    if path.endswith(b" (deleted)"):
        raise process.unsupported(
            name, f"{path.decode(errors='replace')}: a removed directory is not supported"
        )
    return path


def _must_exist(path: bytes) -> None:
    if not os.path.isdir(path):
        raise RestoreConflictError(
            f"{path.decode(errors='replace')}: no such directory; make it and restore again", 2
        )


def _set_limit(ctx: RestoreContext, pid: int, limit: Limit) -> None:
    wanted = (limit.soft, limit.hard)
    if resource.prlimit(pid, limit.number) == wanted:
        return
    try:
        resource.prlimit(pid, limit.number, wanted)
    except (PermissionError, ValueError):
        ctx.note("limits", f"limit {limit.number} cannot be raised to {wanted} here", pid)


def _set_oom_score(ctx: RestoreContext, pid: int, value: int) -> None:
    try:
        if int(proc.read(pid, "oom_score_adj")) != value:
            with open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
                file.write(str(value))
    except PermissionError:
        ctx.note("oom_score_adj", f"{value} cannot be set here", pid)
