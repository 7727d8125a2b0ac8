"""Looks at a stopped task, remembered, so that the next capture can take them all at once and think afterwards.

Each look has a key and is made in one of two ways. The first time, and whenever the shape of the task has changed, it
is made when somebody asks, while the task stands still. Else (`repeat`) the looks of the last time are all made in one
go; the task runs again; and whoever asks gets what was seen. Who asks for a look that was not made meets
MissedObservationError, and the capture is taken again in the first way. So what is in a record was always seen while
the task stood still.

Most of what is seen is not the task's own doing but that of its files; such looks are made *meanwhile*, that is while
the task makes the calls that only look, for us.

*Leisurely* looks are at what a task sets once, if ever (its namespaces, its limits): they are made before the stop and
after it, and must be equal; nothing is read of them in the stop. Single-threaded.
"""

from collections.abc import Callable, Container, Hashable, Sequence
from contextlib import suppress
from typing import Any, Protocol, TypeVar

from sls.errors import MissedObservationError, SlsError
from sls.remote import Call, Reply

T = TypeVar("T")
Look = Callable[[], Any]


class Work(Protocol):
    """Calls that are being made (`sls.remote.Started`)."""

    def wait(self) -> None: ...

    def replies(self) -> list[Reply]: ...


W = TypeVar("W", bound=Work)


class Observations:
    """What is seen of one process, from capture to capture."""

    def __init__(self) -> None:
        self._seen: dict[Hashable, Any] = {}
        self._plan: dict[Hashable, Look] = {}
        self._meanwhile: dict[Hashable, Look] = {}
        self._leisurely: dict[Hashable, Look] = {}
        self._next_plan: dict[Hashable, Look] = {}
        self._next_meanwhile: dict[Hashable, Look] = {}
        self._next_leisurely: dict[Hashable, Look] = {}
        self._is_over = False
        self._calls: dict[int, list[Call]] = {}  # tid → calls of this capture, and of the last
        self._last_calls: dict[int, tuple[Call, ...]] = {}
        self._started: dict[int, tuple[tuple[Call, ...], Work]] = {}
        # what was made of them; all at once if they are asked for in the order in which they were made
        self._made: dict[int, tuple[Sequence[Call], Sequence[Reply]]] = {}
        self._replies: dict[int, dict[Call, Reply]] = {}

    def begin(self, *, is_asking: bool = False) -> None:
        """A capture begins; the tasks may still run. Leisurely looks of the last time are made now.

        `is_asking`: they are made in the stop like all others, because something of them has just changed.
        """
        self._plan, self._next_plan = self._next_plan, {}
        self._meanwhile, self._next_meanwhile = self._next_meanwhile, {}
        self._leisurely, self._next_leisurely = self._next_leisurely, {}
        if is_asking:
            self._leisurely = {}
        before = self._last_calls
        self._last_calls = {
            tid: _same(before.get(tid, ()), tuple(calls)) for tid, calls in self._calls.items()
        }
        self._calls = {}
        self._seen, self._started, self._made, self._replies = {}, {}, {}, {}
        self._is_over = False
        self._make(self._leisurely)

    def warm_up(self, kinds: Container[str]) -> None:
        """Make looks of the last time that may be made at running tasks, of some `kinds`: to no end but their speed.

        The kind of a look is the first part of its key.
        """
        for plan in (self._next_plan, self._next_meanwhile):
            for key, look in plan.items():
                if isinstance(key, tuple) and key[0] in kinds:
                    with suppress(SlsError, OSError):
                        look()

    def repeat(self) -> None:
        """Make the looks of the last time that were not made yet. A look that fails is left to who asks for it."""
        self._make(self._plan)

    def repeat_meanwhile(self) -> None:
        """The same for those that may be made while the task makes calls for us."""
        self._make(self._meanwhile)

    def _make(self, plan: dict[Hashable, Look]) -> None:
        seen = self._seen
        for key, look in plan.items():
            if key not in seen:
                with suppress(SlsError, OSError):
                    seen[key] = look()

    def repeat_calls(self, tid: int, start: Callable[[Sequence[Call]], W]) -> W | None:
        """Have thread `tid` make the system calls of the last time that only look; None when there are none."""
        calls = self._last_calls.get(tid)
        if not calls:
            return None
        started = start(calls)
        self._started[tid] = calls, started
        return started

    def end(self) -> None:
        """The tasks run again: from now on only what was seen is told."""
        self._is_over = True

    def must_be_at_rest(self, what: str) -> None:
        """MissedObservationError when the tasks run again: `what` cannot be had by looking."""
        if self._is_over:
            raise MissedObservationError(f"{what} was not looked at")

    def confirm(self) -> None:
        """Make the leisurely looks again; MissedObservationError when one sees something else than before."""
        for key in self._next_leisurely.keys() & self._leisurely.keys():
            try:
                now = self._next_leisurely[key]()
            except (SlsError, OSError):
                continue  # it has ended since
            if now != self._seen.get(key):
                raise MissedObservationError(f"{key} changed while it was captured; try again")

    def of(self, key: Hashable, look: Callable[[], T]) -> T:
        """What `look` sees, or has seen in this capture."""
        self._next_plan[key] = look
        return self._told(key, look)

    def meanwhile(self, key: Hashable, look: Callable[[], T]) -> T:
        """The same for what the task does not change by making calls for us."""
        self._next_meanwhile[key] = look
        return self._told(key, look)

    def at_leisure(self, key: Hashable, look: Callable[[], T]) -> T:
        """The same for what hardly ever changes."""
        self._next_leisurely[key] = look
        return self._told(key, look)

    def put(self, key: Hashable, found: object) -> None:
        """The caller has looked himself, while the tasks stood still."""
        self._seen[key] = found

    def seen(self, key: Hashable) -> Any:
        """What was seen of that key in this capture until now; None when nothing."""
        return self._seen.get(key)

    def _told(self, key: Hashable, look: Callable[[], T]) -> T:
        if key not in self._seen:
            self.must_be_at_rest(f"{key}")
            self._seen[key] = look()
        found: T = self._seen[key]
        return found

    def expect(self, tid: int, calls: Sequence[Call]) -> None:
        """These calls only look: thread `tid` is to make them again the next time."""
        self._calls.setdefault(tid, []).extend(calls)

    def replies(
        self,
        tid: int,
        calls: Sequence[Call],
        execute: Callable[[Sequence[Call]], Sequence[Reply]],
    ) -> Sequence[Reply]:
        """Replies to calls; those that were not made yet `execute` makes in thread `tid`."""
        if tid in self._started:
            made, started = self._started.pop(tid)
            replies = started.replies()
            if made == tuple(calls):  # as a rule: to look each up would take longer than all else
                self._made[tid] = made, replies
                return replies
            self._replies[tid] = dict(zip(made, replies, strict=True))
        known = self._replies.get(tid)
        if known is None:
            known = self._replies[tid] = dict(zip(*self._made.get(tid, ((), ())), strict=True))
        if all(one in known for one in calls):
            return [known[one] for one in calls]
        self.must_be_at_rest(f"a call in thread {tid}")
        return execute(calls)


def _same(before: tuple[Call, ...], now: tuple[Call, ...]) -> tuple[Call, ...]:
    """`before` where it is equal: who meets the very same object in the stop compares nothing (`sls.remote`)."""
    return before if before == now else now
