"""Capture: freeze, ask each resource, look at the pages, copy, thaw. Orchestration only; no resource is named here.

One `Tracer` belongs to one partition and one thread (ptrace demands it). It remembers, between captures, what was
written into the last one, so that the next holds only changes.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from typing import Final, NamedTuple

from sls import proc, syscalls
from sls.content_digests import ContentDigests
from sls.early import EarlyCopy, KeepRunning, Rehearsal
from sls.errors import MissedObservationError, SlsError, TaskDiedError
from sls.freeze import Frozen
from sls.image import FIRST_MEMORY_OBJECT, Image
from sls.pages import CopyBuffer
from sls.priority import Hurry
from sls.ranges import array_bytes
from sls.reading import FIRST_CONTENT_OBJECT, Reading
from sls.resources import PROCESS_STATES, Parting
from sls.session import CapturedObject, Member, Session, copy_content
from sls.sharing import is_shared
from sls.sleep import Sleepers

_READ_ANY_TIME: Final = ("read", "link", "status of")  # kinds of looks that are reads of /proc


class Capture(NamedTuple):
    """One instant of a partition. Bytes of memory are in the buffer that the caller gave.

    `is_continued`: some were kept before, by the caller's `keep`.
    `hold`: lets the processes go when it is closed, where they were to be held.
    """

    image: Image
    objects: list[CapturedObject]
    is_delta: bool
    stop_ns: int
    stages: dict[str, int]
    pages: int
    is_continued: bool
    hold: ExitStack


class Tracer:
    """Captures one partition, again and again."""

    def __init__(self) -> None:
        self.buffer = CopyBuffer()
        self._members: dict[int, Member] = {}
        self._next_object = FIRST_MEMORY_OBJECT
        self._sleepers = Sleepers()
        self._digests = ContentDigests()
        self.has_base = False  # whether the last capture is one that a delta can build on
        self._last_pids: list[int] = []  # of the last capture

    def capture(
        self,
        members: Callable[[], Iterable[int]],
        *,
        full: bool,
        track: bool,
        stay: bool = False,
        buffer: CopyBuffer | None = None,
        at_rest: Callable[[], None] | None = None,
        keep: KeepRunning | None = None,
        parting: Parting | None = None,
    ) -> Capture:
        """Stop `members` (asked again until no new one appears), take everything, let them go.

        A delta when there was a tracked capture before and not `full`; who is new since comes whole. Raises
        UnsupportedResourceError, FreezeError, TaskDiedError; the tasks go on in any case. Bytes go into `buffer`, else
        into the tracer's own. `track`: keep page tracking, for a delta after this one.
        `stay`: the next capture follows soon, so the arenas stay in the processes; `leave` takes them out.
        `at_rest` is called while everyone stands still, `keep` for large memory before that. With a `parting` they
        stand still until `hold` is closed.
        """
        if buffer is None:
            buffer = self.buffer
            buffer.clear()
        clock = Stages()
        pids = list(members())
        self._look_ahead(pids, full=full)
        clock.lap("ahead")
        early = EarlyCopy(self.member, buffer, self.begin, self._sleepers, keep)
        try:
            early.copy([pid for pid in pids if full or not self._is_tracked(pid)])
        except (SlsError, EOFError):  # what `keep` raises; who was asked to keep it may have ended
            if not stay:
                self.leave(members)
            raise
        clock.lap("early")
        is_delta = not full and self.has_base
        is_rehearsed = len(pids) > 1 and not stay and parting is None and not is_shared(pids)
        alone = pids if is_rehearsed else []
        if alone:
            self._last_pids = []  # each is asked alone, and what they share is not
        take = _Take(
            self, members, buffer, clock, track=track, stay=stay or bool(alone), parting=parting
        )
        rehearsal = Rehearsal(self.member, self.begin, self._sleepers, alone, track=track)
        with ExitStack() as failed:
            if not track:
                failed.callback(self._end_tracking)
            failed.push(lambda *_: take.hold.close())  # which is another one after the stop
            with rehearsal:
                clock.lap("rehearsal")
                image = take.run(full=not is_delta, but=early.pids, at_rest=at_rest)
            objects = early.objects + take.objects
            if track:
                objects = self._without_unchanged(objects, buffer, is_delta=is_delta)
                clock.lap("compare")
            self._forget_gone(take.pids)
            self._last_pids = take.pids
            if not track:
                self._end_tracking()
            self.has_base = track
            failed.pop_all()
        return Capture(
            image, objects, is_delta, take.stop_ns + early.stop_ns + rehearsal.stop_ns, clock.laps,
            early.kept_pages + sum(array_bytes(one.ranges) for one in objects) // syscalls.PAGE_BYTES,
            is_continued=early.kept_pages > 0, hold=take.hold,
        )  # fmt: skip

    def begin(self, *, is_asking: bool = False) -> None:
        """Another stop follows that counts: see what can be seen before it (`Observations.begin`)."""
        for pid, member in self._members.items():
            member.looks.begin(is_asking=is_asking)
            _look_ahead(pid, member, anew=False)

    def warm_up(self) -> None:
        """A stop comes soon: read what it will read, as far as it may be read of running tasks (`sls.warm_up`)."""
        for member in self._members.values():
            member.looks.warm_up(_READ_ANY_TIME)
            with suppress(SlsError, OSError):
                member.tracker.warm_up()

    def frozen(self, members: Callable[[], Iterable[int]]) -> Frozen:
        """Everyone stopped, for a `with` block."""
        return Frozen(members, self._sleepers)

    def knows(self, pids: list[int]) -> bool:
        """Whether the last capture was of the same processes."""
        return self._last_pids == pids

    def _without_unchanged(
        self, objects: list[CapturedObject], buffer: CopyBuffer, *, is_delta: bool
    ) -> list[CapturedObject]:
        """The objects without pages of contents that the last capture had already."""
        if not is_delta:
            self._digests.forget()
        self._digests.forget_gone({one.object_id for one in objects})
        return [
            one._replace(
                ranges=self._digests.keep_changed(
                    one.object_id, one.ranges, buffer.view(one.offset, array_bytes(one.ranges))
                )
            )
            if one.object_id >= FIRST_CONTENT_OBJECT
            else one
            for one in objects
        ]

    def _end_tracking(self) -> None:
        self.has_base = False
        for member in self._members.values():
            member.tracker.stop()

    def _is_tracked(self, pid: int) -> bool:
        known = self._members.get(pid)
        return known is not None and known.tracker.is_tracking and not known.tracker.is_fresh

    def _look_ahead(self, pids: Iterable[int], *, full: bool) -> None:
        """Read what is slow before the stop: of everyone for a full capture, else of who is new."""
        for pid in pids:
            if full or pid not in self._members:
                with suppress(TaskDiedError):  # the freeze will tell
                    _look_ahead(pid, self.member(pid, pid, proc.start_time(pid)), anew=True)

    def leave(self, members: Callable[[], Iterable[int]]) -> None:
        """Take the arenas out of the processes and end tracking: nothing of ours is left in them."""
        staying = [member for member in self._members.values() if member.arena is not None]
        try:
            if staying:
                with ExitStack() as cleanup:
                    frozen = cleanup.enter_context(self.frozen(members))
                    Session(self.member, frozen, cleanup, track=False, stay=False, is_noted=False)
        except (SlsError, OSError):
            return  # they have ended, or cannot be stopped now: a mapping that nobody uses stays
        finally:
            self.has_base = False
            self._forget_gone([])

    def member(self, pid: int, tid: int, start_time: int) -> Member:
        """What is remembered of that process; new when it is another one of the same number."""
        known = self._members.get(pid)
        if known is not None and known.start_time == start_time:
            return known
        if known is not None:
            self._members.pop(pid).close()
        self._members[pid] = Member(tid, start_time, self._next_object)
        self._next_object += 1
        return self._members[pid]

    def forget(self) -> None:
        """The last capture did not become a generation: the next one is full."""
        self.has_base = False
        for member in self._members.values():
            member.tracker.forget()

    def _forget_gone(self, pids: Sequence[int]) -> None:
        for pid in set(self._members) - set(pids):
            self._members.pop(pid).close()


def _look_ahead(pid: int, member: Member, *, anew: bool) -> None:
    try:
        for state in PROCESS_STATES:
            state.look_ahead(pid, member.memo, anew=anew)
    except (TaskDiedError, PermissionError):
        return  # the freeze will tell


class _Take:
    """The stop that counts; a second one where the first has missed something."""

    def __init__(
        self,
        tracer: Tracer,
        members: Callable[[], Iterable[int]],
        buffer: CopyBuffer,
        clock: "Stages",
        *,
        track: bool,
        stay: bool,
        parting: Parting | None,
    ) -> None:
        self._parting = parting
        self._lasting = ExitStack()  # what records are made with, in the stop and after it
        self.hold = ExitStack()  # with a parting: what lets everyone go
        self._tracer = tracer
        self._members = members
        self._buffer = buffer
        self._clock = clock
        self._track = track
        self._stay = stay
        self.objects: list[CapturedObject] = []
        self.pids: list[int] = []
        self.stop_ns = 0

    def run(self, *, full: bool, but: set[int], at_rest: Callable[[], None] | None) -> Image:
        """The image; bytes are in the buffer. What a first stop has copied counts for a second one."""
        with self._lasting:
            return self._taken(full, but, at_rest)

    def _taken(self, full: bool, but: set[int], at_rest: Callable[[], None] | None) -> Image:
        if self._parting is not None:  # nobody runs again, so there is no second stop
            return self._stop(full, but, at_rest, is_asking=True).afterwards()
        reading = self._stop(full, but, at_rest, is_asking=False)
        try:
            return reading.afterwards()
        except (
            MissedObservationError,
            OSError,
        ):  # who asks for more than was seen may find it gone
            but = but | {process.pid for process in reading.tracked()}
            return self._stop(full, but, at_rest, is_asking=True).afterwards()
        finally:
            self._clock.lap("records")

    def _stop(
        self, full: bool, but: set[int], at_rest: Callable[[], None] | None, *, is_asking: bool
    ) -> Reading:
        self._tracer.begin(is_asking=is_asking)
        # the end of the hurry may cost the processor; nobody stands still any more then, and the stop is over
        with Hurry():
            return self._hurried_stop(full, but, at_rest, is_asking=is_asking)

    def _hurried_stop(
        self, full: bool, but: set[int], at_rest: Callable[[], None] | None, *, is_asking: bool
    ) -> Reading:
        lap = self._clock.lap
        with ExitStack() as cleanup:
            frozen = cleanup.enter_context(self._tracer.frozen(self._members))
            lap("freeze")
            session = Session(
                self._tracer.member, frozen, cleanup, track=self._track, stay=self._stay,
                is_of_changes=not full,
            )  # fmt: skip
            lap("prepare")
            knows_all = self._tracer.knows(session.pids)
            reading = Reading(
                session, cleanup, self._lasting, is_asking=is_asking, knows_all=knows_all,
                parting=self._parting,
            )  # fmt: skip
            reading.at_rest()
            lap("read")
            self.objects += session.copy_memory(self._buffer, full=full, but=but)
            for content, source in reading.ctx.contents:
                self.objects.append(copy_content(content, source, self._buffer))
            lap("copy")
            if at_rest is not None:
                at_rest()
                lap("files")
            if self._parting is not None:
                self.hold = cleanup.pop_all()
        lap("thaw")
        self.pids = session.pids
        self.stop_ns += time.monotonic_ns() - frozen.since_ns
        return reading


class Stages:
    """Nanoseconds that each stage of a capture takes; a stage that comes twice adds up."""

    def __init__(self) -> None:
        self.laps: dict[str, int] = {}
        self._last = time.monotonic_ns()

    def lap(self, name: str) -> None:
        """The stage `name` has ended now."""
        now = time.monotonic_ns()
        self.laps[name] = self.laps.get(name, 0) + now - self._last
        self._last = now
