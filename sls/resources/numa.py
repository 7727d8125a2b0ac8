"""NUMA policies (numa(7)): of each thread (set_mempolicy(2)) and of mappings (mbind(2)), with their nodes and flags.

/proc/<pid>/numa_maps walks every page, so it is read before the stop, and not each time: the policy of a mapping that
was given one since then is kept when it is read again.

Not kept: home nodes (set_mempolicy_home_node(2)).
Kernel: Linux 2.6.18 (CONFIG_NUMA).
"""

import re
from collections.abc import Iterator
from typing import Final

from sls import proc
from sls.errors import TaskDiedError
from sls.freeze import FrozenThread
from sls.pace import Pace
from sls.remote import In, Out, Remote, call
from sls.resources.base import (
    CaptureContext,
    CapturedProcess,
    Memo,
    ProcessRecord,
    ProcessState,
    Record,
    RestoreContext,
    RestoredProcess,
    Stage,
    ThreadRecord,
    ThreadState,
)

_NODES: Final = 1024  # MAX_NUMNODES
_NODE_BYTES: Final = _NODES // 8
_DEFAULT: Final = b"default"
# mm/mempolicy.c, in the order of their numbers
_MODES: Final = (
    _DEFAULT, b"prefer", b"bind", b"interleave", b"local", b"prefer (many)", b"weighted interleave",
)  # fmt: skip
_FLAGS: Final = {b"static": 1 << 15, b"relative": 1 << 14, b"balancing": 1 << 13}
_LINE: Final = re.compile(
    rb"([0-9a-f]+) ([a-z]+(?: \(many\)| interleave)?)(?:=([a-z|]+))?(?::([0-9,-]+))?(?: |$)"
)


class NumaPolicyRecord(ThreadRecord, frozen=True, tag="numa-policy"):
    """`mode` with its flags, and a bit for each node; 0 is the default policy."""

    mode: int = 0
    nodes: bytes = b""


_NO_POLICY: Final = NumaPolicyRecord()


class NumaPolicy(ThreadState[NumaPolicyRecord]):
    """Where a thread's new pages go."""

    stage = Stage.LINKS
    record = NumaPolicyRecord

    def can_wait(self, process: CapturedProcess) -> bool:
        return True

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess, thread: FrozenThread
    ) -> Remote[NumaPolicyRecord]:
        (reply,) = yield [call("get_mempolicy", Out(4), Out(_NODE_BYTES), _NODES + 1, 0, 0)]
        if reply.failed:  # a kernel without NUMA
            return _NO_POLICY
        mode = int.from_bytes(reply.outputs[0], "little")
        return NumaPolicyRecord(mode=mode, nodes=reply.outputs[1]) if mode else _NO_POLICY

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, tid: int, record: NumaPolicyRecord
    ) -> Remote[None]:
        if record.mode:
            (reply,) = yield [call("set_mempolicy", record.mode, In(record.nodes), _NODES + 1)]
            if reply.failed:
                ctx.note("NUMA policy", f"thread {tid}: its nodes are not there", process.pid)


class MappingPolicy(Record, frozen=True):
    """Of one mapping."""

    start: int
    length: int
    mode: int
    nodes: bytes


class MappingPoliciesRecord(ProcessRecord, frozen=True, tag="mapping-policies"):
    """Those that are not the thread's."""

    policies: tuple[MappingPolicy, ...] = ()


class MappingPolicies(ProcessState[MappingPoliciesRecord]):
    """Where the new pages of a mapping go."""

    stage = Stage.LINKS
    record = MappingPoliciesRecord

    def look_ahead(self, tid: int, memo: Memo, *, anew: bool) -> None:
        pace = memo.of("pace of numa_maps", b"", Pace)
        if anew or not memo.knows("numa_maps", b"") or pace.is_due():
            with pace.looking():
                memo.put("numa_maps", b"", _texts(tid))

    def can_wait(self, process: CapturedProcess) -> bool:
        return process.memo.knows("numa_maps", b"")

    def capture(
        self, ctx: CaptureContext, process: CapturedProcess
    ) -> Remote[MappingPoliciesRecord]:
        yield from ()
        texts = process.memo.of("numa_maps", b"", lambda: _texts(process.tid))
        if all(text == _DEFAULT for text in texts.values()):
            return MappingPoliciesRecord()
        return MappingPoliciesRecord(policies=tuple(_policies(process, texts)))

    def restore(
        self, ctx: RestoreContext, process: RestoredProcess, record: MappingPoliciesRecord
    ) -> Remote[None]:
        if record.policies:
            replies = yield [
                call("mbind", one.start, one.length, one.mode, In(one.nodes), _NODES + 1, 0)
                for one in record.policies
            ]
            if any(reply.failed for reply in replies):
                ctx.note("NUMA policy", "a mapping's nodes are not there", process.pid)


def _texts(tid: int) -> dict[int, bytes]:
    """Policy in words by start address; empty on a kernel without NUMA."""
    try:
        lines = proc.read(tid, "numa_maps").splitlines()
    except TaskDiedError:
        return {}
    found = (_LINE.match(line) for line in lines)
    return {int(one[1], 16): one[0].split(b" ", 1)[1].rstrip() for one in found if one}


def _policies(process: CapturedProcess, texts: dict[int, bytes]) -> Iterator[MappingPolicy]:
    """Those of mappings; where there is none, the thread's is shown, as with the vdso, which has none."""
    vdso = next((line.start for line in process.maps if line.name == b"[vdso]"), 0)
    for line in process.maps:
        text = texts.get(line.start, _DEFAULT)
        if text not in (_DEFAULT, texts.get(vdso, _DEFAULT)) and not process.is_arena(line):
            mode, nodes = _parsed(text)
            yield MappingPolicy(start=line.start, length=line.length, mode=mode, nodes=nodes)


def _parsed(text: bytes) -> tuple[int, bytes]:
    """Mode with flags, and the bits of the nodes."""
    found = _LINE.match(b"0 " + text)
    assert found is not None, "a line that matched before"
    mode = _MODES.index(found[2])
    for flag in (found[3] or b"").split(b"|"):
        mode |= _FLAGS.get(flag, 0)
    bits = 0
    for part in (found[4] or b"").split(b","):
        first, _, last = part.partition(b"-")
        if first:
            bits |= sum(1 << node for node in range(int(first), int(last or first) + 1))
    return mode, bits.to_bytes(_NODE_BYTES, "little")
