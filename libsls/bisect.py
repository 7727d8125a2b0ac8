"""Binary search for the first generation that is bad. Pure: what is bad, the caller says. Standard library only."""

from collections.abc import Callable, Sequence
from enum import Enum, auto
from typing import Final

SKIP_STATUS: Final = 125
ABORT_STATUSES: Final = range(126, 256)  # as of `git bisect run`: not found, not to be run, killed


class Verdict(Enum):
    """What is known of one generation."""

    GOOD = auto()
    BAD = auto()
    SKIPPED = auto()


class UndecidedError(Exception):
    """No first bad generation can be told; the message says why."""


def verdict_of(status: int) -> Verdict:
    """A command's exit status as `git bisect run` reads it: 0 good, 125 skip, 1…124 bad. Else UndecidedError."""
    if status == SKIP_STATUS:
        return Verdict.SKIPPED
    if status < 0 or status in ABORT_STATUSES:
        raise UndecidedError(f"the command ended with status {status}; nothing was decided")
    return Verdict.BAD if status else Verdict.GOOD


def first_bad(epochs: Sequence[int], judge: Callable[[int], Verdict]) -> int:
    """The first bad one of ascending `epochs`, of which the first is to be good and the last bad.

    Both ends are judged too. Raises UndecidedError where they are not so, or only skipped ones are left between.
    """
    if not epochs:
        raise UndecidedError("there is no generation to judge")
    if judge(epochs[-1]) is not Verdict.BAD:
        raise UndecidedError(f"generation {epochs[-1]}, the last, is not bad")
    if len(epochs) == 1 or judge(epochs[0]) is Verdict.BAD:
        return epochs[0]
    good, bad = 0, len(epochs) - 1
    skipped: set[int] = set()
    while left := [index for index in range(good + 1, bad) if index not in skipped]:
        middle = (good + bad) // 2
        index = min(left, key=lambda one: abs(one - middle))
        verdict = judge(epochs[index])
        if verdict is Verdict.SKIPPED:
            skipped.add(index)
        elif verdict is Verdict.BAD:
            bad = index
        else:
            good = index
    if bad - good > 1:
        among = ", ".join(str(epochs[index]) for index in range(good + 1, bad + 1))
        raise UndecidedError(f"the first bad generation is one of {among}: the others were skipped")
    return epochs[bad]
