"""Credentials: user and group ids, supplementary groups, capabilities, securebits, no_new_privs (credentials(7)).

A thread's own matter in the kernel, so a thread's record. Also what a change of credentials resets, and so must follow:
dumpable, and the parent-death signal (prctl(2)).

Not kept: Landlock domains (landlock(7)) and what keyrings(7) hold, of neither of which anything tells.
Kernel: Linux 3.5; ambient capabilities 4.3.
"""

import struct
from collections.abc import Mapping
from typing import Final

from sls import proc
from sls.freeze import FrozenThread
from sls.remote import Call, In, Out, Remote, call, remote_all
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)

_PR_SET_PDEATHSIG, _PR_GET_PDEATHSIG, _PR_GET_DUMPABLE, _PR_SET_DUMPABLE = 1, 2, 3, 4
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 24, 38
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 2, 4
_CAPABILITY_VERSION_3: Final = 0x20080522
_SECBIT_KEEP_CAPS: Final = 1 << 4


class CredentialsRecord(ThreadRecord, frozen=True, tag="credentials"):
    """`uids` and `gids`: real, effective, saved, filesystem. Capability sets as bit masks."""

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int
    no_new_privs: bool
    dumpable: int
    death_signal: int


class Credentials(ThreadState[CredentialsRecord]):
    """Who the thread acts as, and what it may."""

    stage = Stage.IDENTITY
    record = CredentialsRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[CredentialsRecord]:
        securebits, dumpable, death_signal = yield [
            call("prctl", _PR_GET_SECUREBITS),
            call("prctl", _PR_GET_DUMPABLE),
            call("prctl", _PR_GET_PDEATHSIG, Out(4)),
        ]
        status = process.status_of(thread.tid)
        return CredentialsRecord(
            uids=_four(status["Uid"]),
            gids=_four(status["Gid"]),
            groups=tuple(map(int, status["Groups"].split())),
            inheritable=int(status["CapInh"], 16),
            permitted=int(status["CapPrm"], 16),
            effective=int(status["CapEff"], 16),
            bounding=int(status["CapBnd"], 16),
            ambient=int(status["CapAmb"], 16),
            securebits=securebits.check(),
            no_new_privs=status["NoNewPrivs"] == "1",
            dumpable=dumpable.check(),
            death_signal=int.from_bytes(death_signal.outputs[0], "little"),
        )

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: CredentialsRecord
    ) -> Remote[None]:
        current = proc.status(process.pid, tid)
        calls = list(_identity_calls(current, record))
        if record.no_new_privs:
            calls.append(call("prctl", _PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
        if record.dumpable in (0, 1):  # 2 cannot be set; a change of ids has already made it so
            calls.append(call("prctl", _PR_SET_DUMPABLE, record.dumpable))
        calls.append(call("prctl", _PR_SET_PDEATHSIG, record.death_signal))
        yield from remote_all(calls)


def _four(text: str) -> tuple[int, int, int, int]:
    real, effective, saved, filesystem = map(int, text.split())
    return real, effective, saved, filesystem


def _identity_calls(current: Mapping[str, str], record: CredentialsRecord) -> list[Call]:
    """Calls that turn `current` (root) into `record`. Ids change while KEEP_CAPS holds, then the sets are cut down."""
    calls: list[Call] = []
    groups = tuple(map(int, current["Groups"].split()))
    if groups != record.groups:
        packed = struct.pack(f"={len(record.groups)}I", *record.groups)
        calls.append(call("setgroups", len(record.groups), In(packed) if packed else 0))
    calls.append(call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))
    bounding = int(current["CapBnd"], 16)
    calls += [
        call("prctl", _PR_CAPBSET_DROP, number)
        for number in range(64)
        if bounding >> number & 1 and not record.bounding >> number & 1
    ]
    if record.uids != _four(current["Uid"]) or record.gids != _four(current["Gid"]):
        calls += [
            call("prctl", _PR_SET_SECUREBITS, _SECBIT_KEEP_CAPS | 0x4),  # and NO_SETUID_FIXUP
            call("setresgid", *record.gids[:3]),
            call("setfsgid", record.gids[3]),
            call("setresuid", *record.uids[:3]),
            call("setfsuid", record.uids[3]),
        ]
    calls.append(call("prctl", _PR_SET_SECUREBITS, record.securebits))
    calls.append(_capset(record))
    calls += [
        call("prctl", _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_RAISE, number, 0, 0)
        for number in range(64)
        if record.ambient >> number & 1
    ]
    return calls


def _capset(record: CredentialsRecord) -> Call:
    """capset(2) of the calling thread: two 32-bit halves of effective, permitted, inheritable."""
    low, high = (
        tuple(
            mask >> shift & 0xFFFFFFFF
            for mask in (record.effective, record.permitted, record.inheritable)
        )
        for shift in (0, 32)
    )
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    return call("capset", In(header), In(struct.pack("=6I", *low, *high)))
