"""Which generations thinning and retention let go."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slos.errors import InvalidRequestError
from slos.retention import parse_rule, surplus, thinned
from slos.store import GenerationInfo

SECOND = 10**9
NOW = 10_000 * SECOND


def infos(ages: list[int]) -> list[GenerationInfo]:
    times = sorted(NOW - age for age in ages)
    return [GenerationInfo(epoch=i, parent=None, time_ns=t) for i, t in enumerate(times, 1)]


def test_parse_rule() -> None:
    assert parse_rule("1m:60 1s:60 1h:24") == (
        (SECOND, 60),
        (60 * SECOND, 60),
        (3600 * SECOND, 24),
    )


@pytest.mark.parametrize("rule", ["", "1s", "1s:0", "0s:5", "1y:3", "1s:-1", "1s:60,1m:60"])
def test_nonsense_is_refused(rule: str) -> None:
    with pytest.raises(InvalidRequestError, match="1s:60"):
        parse_rule(rule)


def test_surplus_keeps_the_newest_and_the_tagged() -> None:
    found = range(1, 11)
    assert surplus(found, 0, ()) == []
    assert surplus(found, 3, {2, 10}) == [1, 3, 4, 5, 6]
    with pytest.raises(InvalidRequestError):
        surplus(found, -1, ())


def test_thinning_a_steady_stream() -> None:
    """100 a second for 3 minutes: a second's for the last 60 s, a minute's before."""
    found = infos([n * SECOND // 100 for n in range(18000)])
    gone = set(thinned(found, "1s:60 1m:60", {7}, NOW))
    left = [info for info in found if info.epoch not in gone]
    assert 60 <= len(left) <= 66
    assert found[-1] in left
    assert any(info.epoch == 7 for info in left)


@settings(deadline=None, derandomize=True, database=None)
@given(st.lists(st.integers(0, 200 * SECOND), min_size=1, max_size=60), st.integers(1, 20))
def test_thinning_again_changes_nothing(ages: list[int], count: int) -> None:
    found = infos(ages)
    rule = f"1s:{count} 10s:{count}"
    gone = set(thinned(found, rule, (), NOW))
    left = [info for info in found if info.epoch not in gone]
    assert left
    assert thinned(left, rule, (), NOW) == []
    assert len(left) <= 2 * count + 1
