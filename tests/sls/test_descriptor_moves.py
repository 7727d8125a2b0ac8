"""The order in which descriptors go to their numbers."""

from hypothesis import example, given
from hypothesis import strategies as st

from sls.descriptor_moves import moves

NUMBERS = st.integers(0, 12)


@given(st.dictionaries(NUMBERS, NUMBERS))
@example({1: 2, 2: 1})
@example({1: 2, 2: 3, 3: 1, 4: 1, 5: 4, 6: 6})
@example({1: 2, 2: 1, 3: 4, 4: 3})
def test_each_number_gets_what_was_at_its_place(places: dict[int, int]) -> None:
    table = {number: number for number in range(64)}
    done = list(moves(places))
    for place, to in done:
        assert place != to
        table[to] = table[place]
    assert {number: table[number] for number in places} == places
    untouched = set(table) - {to for _, to in done}
    assert all(table[number] == number for number in untouched)
    assert len(done) <= len(places) * 3 // 2
