"""Time namespaces: clocks that are shifted; on another boot they go on from where they stood."""

import pytest

from sls.resources.time_namespace import TimeNamespaceRecord, _clocks, _offsets, _shifted
from tests.sls.conftest import Kept


def test_time_namespaces(kept: Kept) -> None:
    assert not kept("time_namespace.c").notes


def test_offsets_of_proc() -> None:
    text = b"monotonic      100000         5\nboottime            -3         7\n"
    assert _offsets(text) == (100_000 * 10**9 + 5, -3 * 10**9 + 7)


@pytest.mark.parametrize("is_same_boot", [True, False])
def test_clocks_after_a_boot(is_same_boot: bool) -> None:
    """The machine's clocks have begun anew; those of the namespace have not."""
    hour = 3600 * 10**9
    then = tuple(now + hour for now in _clocks())
    record = TimeNamespaceRecord(link=b"time:[1]", offsets_ns=(5 * hour, 0), clocks_ns=then)
    found = _shifted(record, is_same_boot=is_same_boot)
    lag = 0 if is_same_boot else hour
    assert 0 <= 5 * hour + lag - found[0] < 60 * 10**9
    assert 0 <= lag - found[1] < 60 * 10**9
