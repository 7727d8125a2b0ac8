"""Logs: one line an event, bounded, pollable."""

from slfs.journal import Journal, format_time


def test_an_event_is_one_line() -> None:
    journal = Journal()
    journal.add(1_700_000_000_123_456_789, "error", "two\nlines")
    assert journal.read(0, 100) == b"2023-11-14T22:13:20.123456Z error: two lines\n"
    assert journal.size() == 45
    assert journal.read(45, 100) == b""


def test_the_oldest_half_is_dropped_in_whole_lines() -> None:
    journal = Journal(max_bytes=1000)
    for number in range(200):
        journal.add(0, "info", f"event {number}")
        assert journal.size() <= 1000
    lines = journal.read(0, 2000).decode().splitlines()
    assert lines[-1].endswith("event 199")
    assert all(line.startswith("1970-01-01T") for line in lines)


def test_a_new_line_wakes_once() -> None:
    journal = Journal()
    woken: list[int] = []
    journal.watch.add(lambda: woken.append(1))
    assert journal.watch.is_watched
    journal.add(0, "info", "a")
    journal.add(0, "info", "b")
    assert woken == [1]
    assert not journal.watch.is_watched


def test_time_is_utc() -> None:
    assert format_time(0) == "1970-01-01T00:00:00.000000Z"
