"""Percentiles of the last checkpoints, and the timeline made of them."""

from sls.requests import Percentiles
from sls.times import KEPT, Checkpoint, Times, percentiles, timeline


def checkpoint(epoch: int, *, stop_ns: int = 500, pages: int = 2) -> Checkpoint:
    start = epoch * 10_000
    return Checkpoint(
        epoch=epoch, kind="delta", started_ns=start, stop_ns=stop_ns,
        stages_ns={"early": 100, "freeze": 200, "thaw": 300, "compare": 50}, received_ns=start + 700,
        committed_ns=start + 900, processes=1, pages=pages,
    )  # fmt: skip


def test_percentiles() -> None:
    assert percentiles([]) == Percentiles()
    assert percentiles([7]) == Percentiles(7, 7, 7, 7)
    assert percentiles(range(100, 0, -1)) == Percentiles(51, 91, 100, 100)


def test_counters_are_of_all_and_percentiles_of_the_last() -> None:
    times = Times(lambda epoch: None)
    for epoch in range(KEPT + 50):
        times.add(checkpoint(epoch, stop_ns=9_000 if epoch < 50 else 500), missed=0)
    times.fail()
    found = times.statistics()
    assert (found.checkpoints, found.failed) == (KEPT + 50, 1)
    assert found.stop_ns == Percentiles(500, 500, 500, 500)
    assert found.total_ns == Percentiles(900, 900, 900, 900)
    assert found.stages_ns["freeze"].p50 == 200
    assert found.pages == 2 * (KEPT + 50)
    assert found.pages_each.max == 2
    assert found.lag_ns == Percentiles()
    assert len(times.last()) == KEPT


def test_missed_periods_add_up_over_several_runs_of_periods() -> None:
    times = Times(lambda epoch: None)
    for missed in (0, 2, 5, 0, 1):
        times.add(checkpoint(1), missed)
    assert times.statistics().missed == 6


def test_the_lag_is_known_when_the_generation_is_durable() -> None:
    durable: dict[int, int] = {}
    times = Times(durable.get)
    for epoch in (1, 2, 3):
        times.add(checkpoint(epoch), 0)
    assert times.statistics().lag_ns == Percentiles()
    durable |= {1: 10_000 + 1_500, 2: 0}  # the second was deleted before anybody asked
    found = times.statistics()
    assert found.lag_ns == Percentiles(1_500, 1_500, 1_500, 1_500)
    durable[3] = 30_000 + 2_500
    assert times.statistics().lag_ns.max == 2_500


def test_the_timeline_has_every_stage_the_stop_the_commit_and_durability() -> None:
    times = Times(lambda epoch: epoch * 10_000 + 2_000)
    times.add(checkpoint(1), 0)
    trace = timeline(5, times.last())
    events = trace["traceEvents"]
    spans = [(one["name"], one["ts"], one["dur"]) for one in events if one["ph"] == "X"]
    assert spans == [
        ("delta 1", 10.0, 0.65),
        ("early", 10.0, 0.1),
        ("freeze", 10.1, 0.2),
        ("thaw", 10.3, 0.3),
        ("compare", 10.6, 0.05),
        ("delta 1", 10.1, 0.5),  # the members stand still
        ("delta 1", 10.7, 0.2),  # the commit
    ]
    waiting = [(one["ph"], one["id"], one["ts"]) for one in events if one["ph"] in "be"]
    assert waiting == [("b", 1, 10.9), ("e", 1, 12.0)]
    assert {one["pid"] for one in events} == {5}
