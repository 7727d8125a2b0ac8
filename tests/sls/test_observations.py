"""Looks at a process: made when asked for, or all at once as the last time; never when it runs again."""

import os
from collections.abc import Sequence

import pytest

from sls.errors import MissedObservationError
from sls.observations import Observations
from sls.remote import Call, Reply, call


def test_looks_of_the_last_time_are_made_at_once() -> None:
    values = iter([1, 2])
    looks = Observations()
    looks.begin()
    assert looks.of("a", lambda: next(values)) == 1
    looks.begin()
    looks.repeat()
    looks.end()
    assert looks.of("a", lambda: 3) == 2


def test_a_look_that_was_not_made_is_missed() -> None:
    looks = Observations()
    looks.begin()
    looks.repeat()
    looks.end()
    with pytest.raises(MissedObservationError, match="b"):
        looks.of("b", lambda: 1)


def test_a_look_that_fails_is_left_to_who_asks() -> None:
    looks = Observations()
    looks.begin()
    with pytest.raises(FileNotFoundError):
        looks.of("a", lambda: os.stat("/proc/self/no-such-file"))
    looks.begin()
    looks.repeat()
    assert looks.of("a", lambda: 1) == 1


def test_what_hardly_ever_changes_must_be_the_same_before_and_after() -> None:
    values = iter([1, 1, 1, 2, 3])
    looks = Observations()
    looks.begin()
    assert looks.at_leisure("a", lambda: next(values)) == 1
    looks.confirm()
    for is_equal in (True, False):
        looks.begin()
        looks.end()
        looks.at_leisure("a", lambda: next(values))
        if is_equal:
            looks.confirm()
        else:
            with pytest.raises(MissedObservationError, match="changed"):
                looks.confirm()
    looks.begin(is_asking=True)
    assert looks.at_leisure("a", lambda: 4) == 4
    looks.end()
    looks.confirm()


def test_a_look_meanwhile_is_made_apart_from_the_others() -> None:
    looks, made = Observations(), []
    looks.begin()
    looks.of("one", lambda: made.append("one"))
    looks.meanwhile("other", lambda: made.append("other"))
    looks.begin()
    looks.repeat()
    assert made == ["one", "other", "one"]
    looks.repeat_meanwhile()
    assert made[3:] == ["other"]


def test_calls_that_only_look_are_made_again() -> None:
    asked = [call("getpid"), call("getppid")]
    replies = [Reply(1, one.name, 7, ()) for one in asked]

    def never(calls: object) -> list[Reply]:
        pytest.fail(f"made {calls}")

    looks = Observations()
    looks.begin()
    assert looks.replies(1, asked, lambda calls: replies) == replies
    looks.expect(1, asked)
    looks.begin()
    started: list[Call] = []

    class Made:
        def wait(self) -> None:
            pass

        def replies(self) -> list[Reply]:
            return replies

    def start(calls: Sequence[Call]) -> Made:
        started.extend(calls)
        return Made()

    looks.repeat_calls(1, start)
    looks.end()
    assert started == asked
    assert looks.replies(1, asked[1:], never) == replies[1:]
    with pytest.raises(MissedObservationError):
        looks.replies(1, [call("gettid")], never)
