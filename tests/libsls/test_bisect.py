"""The search itself."""

import pytest

from libsls.bisect import UndecidedError, Verdict, first_bad, verdict_of


@pytest.mark.parametrize("count", [1, 2, 3, 10, 1000])
def test_every_first_bad_one_is_found(count: int) -> None:
    epochs = [3 * number for number in range(1, count + 1)]
    for first in epochs[:: max(1, count // 40)]:
        asked: list[int] = []

        def judge(epoch: int, first: int = first, asked: list[int] = asked) -> Verdict:
            asked.append(epoch)
            return Verdict.BAD if epoch >= first else Verdict.GOOD

        assert first_bad(epochs, judge) == first
        assert len(asked) <= count.bit_length() + 2
        assert len(set(asked)) == len(asked)


def test_what_is_skipped_is_passed_by() -> None:
    skipped = {4, 5, 6}
    found = first_bad(
        range(1, 10),
        lambda epoch: (
            Verdict.SKIPPED if epoch in skipped else (Verdict.BAD if epoch >= 3 else Verdict.GOOD)
        ),
    )
    assert found == 3
    with pytest.raises(UndecidedError, match="one of 4, 5, 6, 7"):
        first_bad(
            range(1, 10),
            lambda epoch: (
                Verdict.SKIPPED
                if epoch in skipped
                else (Verdict.BAD if epoch >= 6 else Verdict.GOOD)
            ),
        )


def test_there_must_be_a_bad_one() -> None:
    with pytest.raises(UndecidedError, match="the last, is not bad"):
        first_bad([1, 2], lambda epoch: Verdict.GOOD)
    with pytest.raises(UndecidedError, match="no generation"):
        first_bad([], lambda epoch: Verdict.GOOD)


@pytest.mark.parametrize(
    ("status", "verdict"),
    [(0, Verdict.GOOD), (1, Verdict.BAD), (124, Verdict.BAD), (125, Verdict.SKIPPED)],
)
def test_statuses(status: int, verdict: Verdict) -> None:
    assert verdict_of(status) is verdict


@pytest.mark.parametrize("status", [126, 127, 128, 255, -9])
def test_statuses_that_end_the_search(status: int) -> None:
    with pytest.raises(UndecidedError):
        verdict_of(status)
