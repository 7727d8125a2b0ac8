"""In which order descriptors go to their numbers, so that none is overwritten while it is still needed.

Pure: knows numbers only. What a process inherits lies at any numbers, also at those that others are to have.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import count


def moves(places: Mapping[int, int]) -> Iterator[tuple[int, int]]:
    """(from, to) of dup2(2) calls after which each number, a key of `places`, is what its value was before.

    What is in its place is not named. A ring goes by way of a number that is neither a key nor a value.
    """
    left = {to: place for to, place in places.items() if to != place}
    needed = Counter(left.values())
    free = [to for to in left if not needed[to]]
    taken = {*places, *places.values()}
    aside = next(number for number in count() if number not in taken)
    while left:
        while free:
            to = free.pop()
            place = left.pop(to)
            yield place, to
            needed[place] -= 1
            if not needed[place] and place in left:
                free.append(place)
        if left:
            to = next(iter(left))
            yield to, aside
            left.update({other: aside for other, place in left.items() if place == to})
            needed[aside], needed[to] = needed[to], 0
            free.append(to)
