"""Who may do what to a partition, beyond what file modes say.

The mount runs as root for ordinary users: whatever it does to a process on a user's behalf, the
user must be allowed to do himself. Errors are RefusedError (EPERM). Stateless.
"""

import errno
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from slfs.errors import RefusedError
from sls import proc
from sls.errors import TaskDiedError
from sls.image import Image
from sls.resources import CredentialsRecord


@dataclass(frozen=True)
class Caller:
    """Who made a request. `pid` is 0 when he lives in a pid namespace that we cannot see."""

    uid: int
    gid: int
    pid: int

    @property
    def is_root(self) -> bool:
        return self.uid == 0


def check_may_trace(caller: Caller, pids: Iterable[int]) -> None:
    """ptrace(2)'s rule for another's process: all uids and gids the caller's, no capability more.

    A process that is gone is left to be reported by whoever works on it.
    """
    if caller.is_root:
        return
    for pid in pids:
        try:
            fields = proc.status(pid)
        except (TaskDiedError, OSError):
            continue
        if not _is_traceable(caller, fields):
            raise RefusedError(
                f"pid {pid} is not a process that uid {caller.uid} may trace; "
                "attach your own processes, or ask root",
                errno.EPERM,
            )


def _is_traceable(caller: Caller, fields: Mapping[str, str]) -> bool:
    uids = {int(word) for word in fields["Uid"].split()[:3]}
    gids = {int(word) for word in fields["Gid"].split()[:3]}
    capabilities = int(fields["CapPrm"], 16)
    return uids == {caller.uid} and gids == {caller.gid} and not capabilities


def check_may_restore(caller: Caller, image: Image) -> None:
    """Bringing a process back is running it: every thread must have the caller's credentials."""
    if caller.is_root:
        return
    for process in image.processes:
        for thread in process.threads:
            for state in thread.states:
                if isinstance(state, CredentialsRecord) and not _is_plain(caller, state):
                    raise RefusedError(
                        f"pid {process.pid} runs with more than uid {caller.uid}'s rights; "
                        "ask root to restore it",
                        errno.EPERM,
                    )


def _is_plain(caller: Caller, credentials: CredentialsRecord) -> bool:
    return (
        set(credentials.uids) == {caller.uid}
        and set(credentials.gids) == {caller.gid}
        and not credentials.permitted
    )
