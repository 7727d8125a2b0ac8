"""Stops of one process alone, before and after the stop of all, so that that one is short.

`EarlyCopy` copies large memory while its owner runs. `Rehearsal` asks each process of a tree once, alone, so that what
is set up and thought about does not happen while all the others wait. Both only save time: what goes wrong here the
stop of all meets again, and tells. Single-threaded.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Final

from sls import proc
from sls.errors import SlsError, TaskDiedError
from sls.freeze import Frozen
from sls.page_tracker import Changes
from sls.pages import CopyBuffer
from sls.ranges import RangeArray, Ranges, array_bytes
from sls.reading import Reading
from sls.session import CapturedObject, Member, Session, private_mappings
from sls.sleep import Sleepers
from sls.syscalls import PAGE_BYTES

_EARLY_BYTES: Final = 8 << 20  # less is copied faster than a first stop takes
_EARLY_ROUNDS: Final = 3

FindMember = Callable[[int, int, int], Member]  # (pid, a live tid, start time)
KeepRunning = Callable[[int, int, RangeArray, Ranges], None]  # (pid, object, pages, what is gone)


class EarlyCopy:
    """Copies large memory while its owner runs, so that the stop copies only what was written meanwhile.

    `keep`: who copies it to where the generation is made; without, it is copied into the buffer.
    """

    def __init__(
        self,
        find_member: FindMember,
        buffer: CopyBuffer,
        begin: Callable[[], None],
        sleepers: Sleepers,
        keep: KeepRunning | None = None,
    ) -> None:
        self._find_member = find_member
        self._buffer = buffer
        self._begin = begin
        self._sleepers = sleepers
        self._keep = keep
        self.objects: list[CapturedObject] = []
        self.kept_pages = 0
        self.pids: set[int] = set()
        self.stop_ns = 0

    def copy(self, pids: Iterable[int]) -> None:
        """Copy those of `pids` that are worth it, in at most `_EARLY_ROUNDS` rounds after the first.

        Raises what `keep` does, but for the end of a task.
        """
        try:
            large = [pid for pid in pids if proc.private_bytes(pid) >= _EARLY_BYTES]
            members = self._tracked(large) if large else {}
            if members:
                self._begin()  # what is seen there is as large; pages written meanwhile are copied before the stop
        except (SlsError, OSError):
            return  # the stop copies everything, and tells what is wrong
        try:
            for pid, member in members.items():
                self._copy_running(pid, member)
        except (TaskDiedError, OSError):
            self.objects.clear()
            self.kept_pages = 0
            self.pids.clear()

    def _tracked(self, pids: list[int]) -> dict[int, Member]:
        """The members behind `pids` with tracking on, which takes a first short stop."""
        with ExitStack() as cleanup:
            frozen = cleanup.enter_context(Frozen(lambda: pids, self._sleepers))
            session = Session(
                self._find_member, frozen, cleanup, track=True, stay=True, is_noted=False
            )
        self.stop_ns = time.monotonic_ns() - frozen.since_ns
        return {pid: one for pid, one in session.members.items() if one.tracker.is_tracking}

    def _copy_running(self, pid: int, member: Member) -> None:
        own = private_mappings(proc.parse_maps(proc.read(pid, "maps")), member.arena)
        changes = member.tracker.look(own, full=True)
        if self._keep is not None:
            self.kept_pages += array_bytes(changes.copied) // PAGE_BYTES  # later rounds repeat them
        self._copy(pid, member.object_id, changes)
        for _ in range(_EARLY_ROUNDS):
            copied = array_bytes(changes.copied)
            changes = member.tracker.look_again()
            self._copy(pid, member.object_id, changes)
            if copied < _EARLY_BYTES or 2 * array_bytes(changes.copied) > copied:
                break  # little is left; or as much is written as is copied
        self.pids.add(pid)

    def _copy(self, pid: int, object_id: int, changes: Changes) -> None:
        if self._keep is not None:
            self._keep(pid, object_id, changes.copied, changes.gone)
            return
        offset = self._buffer.copy_ranges(pid, changes.copied)
        self.objects.append(CapturedObject(object_id, offset, changes.copied, changes.gone))


class Rehearsal:
    """A `with` block around the stop of a whole tree, in which arenas and answers are ready.

    Before it each process is stopped alone and asked; after it each gives its arena back, alone again. `stop_ns`: what
    that adds to the stop of the process that it took the longest with.
    """

    def __init__(
        self,
        find_member: FindMember,
        begin: Callable[[], None],
        sleepers: Sleepers,
        pids: Sequence[int],
        *,
        track: bool,
    ) -> None:
        self._find_member = find_member
        self._begin = begin
        self._sleepers = sleepers
        self._pids = pids
        self._track = track
        self._stops_ns: dict[int, int] = {}

    @property
    def stop_ns(self) -> int:
        return max(self._stops_ns.values(), default=0)

    def __enter__(self) -> None:
        for pid in self._pids:
            self._stop(pid, self._give_arena)
        if self._pids:
            self._begin()  # looks at what has changed by the arenas, among others
        for pid in self._pids:
            self._stop(pid, self._ask)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for pid in self._pids:
            self._stop(pid, self._take_arena)

    def _stop(self, pid: int, work: Callable[[Frozen, ExitStack], None]) -> None:
        try:
            with ExitStack() as cleanup:
                frozen = cleanup.enter_context(Frozen(lambda: [pid], self._sleepers))
                work(frozen, cleanup)
            stopped_ns = time.monotonic_ns() - frozen.since_ns
        except (SlsError, OSError):
            return  # the stop of all tells; or it has ended, and its arena with it
        self._stops_ns[pid] = self._stops_ns.get(pid, 0) + stopped_ns

    def _give_arena(self, frozen: Frozen, cleanup: ExitStack) -> None:
        Session(self._find_member, frozen, cleanup, track=False, stay=True, is_noted=False)

    def _ask(self, frozen: Frozen, cleanup: ExitStack) -> None:
        session = Session(self._find_member, frozen, cleanup, track=self._track, stay=True)
        Reading(session, cleanup, cleanup, is_asking=True).at_rest()

    def _take_arena(self, frozen: Frozen, cleanup: ExitStack) -> None:
        Session(self._find_member, frozen, cleanup, track=False, stay=False, is_noted=False)
