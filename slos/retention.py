"""Which generations to let go: by count, and thinned by age.

Pure: epochs and times in, epochs out.
"""

import re
from collections.abc import Container, Iterable, Sequence

from slos.errors import InvalidRequestError
from slos.store import GenerationInfo

_UNIT_NS = {
    "ms": 10**6,
    "s": 10**9,
    "m": 60 * 10**9,
    "h": 3600 * 10**9,
    "d": 86400 * 10**9,
    "w": 7 * 86400 * 10**9,
}
_TERM = re.compile(r"(\d{1,6})(ms|s|m|h|d|w):(\d{1,6})")


def parse_rule(rule: str) -> tuple[tuple[int, int], ...]:
    """`1s:60 1m:60` → ((interval_ns, count), …), intervals ascending."""
    terms = []
    for word in rule.split():
        match = _TERM.fullmatch(word)
        if match is None or int(match[1]) == 0 or int(match[3]) == 0:
            raise InvalidRequestError(
                f"thinning rule {word!r}: write INTERVAL:COUNT such as 1s:60 1m:60 1h:24"
            )
        terms.append((int(match[1]) * _UNIT_NS[match[2]], int(match[3])))
    if not terms:
        raise InvalidRequestError("an empty thinning rule: write terms such as 1s:60 1m:60 1h:24")
    return tuple(sorted(terms))


def surplus(epochs: Iterable[int], newest: int, keep: Container[int]) -> list[int]:
    """Of ascending epochs those beyond the `newest` newest; `keep` stays and does not count. 0 keeps all."""
    if newest < 0:
        raise InvalidRequestError(f"retain {newest}: a count of generations is 0 or more")
    if newest == 0:
        return []
    loose = [epoch for epoch in epochs if epoch not in keep]
    return loose[:-newest]


def thinned(
    infos: Sequence[GenerationInfo], rule: str, keep: Container[int], now_ns: int
) -> list[int]:
    """Epochs that no term of the rule wants; the newest generation always stays.

    A term `interval:count` wants the oldest generation of each of the `count` latest slots of
    `interval` length. The oldest, because it stays the slot's choice while the slot fills.
    """
    wanted: set[int] = set()
    for interval_ns, count in parse_rule(rule):
        wanted.update(_slot_choices(infos, interval_ns, now_ns // interval_ns - count))
    last = infos[-1].epoch if infos else 0
    return [
        info.epoch
        for info in infos
        if info.epoch not in wanted and info.epoch not in keep and info.epoch != last
    ]


def _slot_choices(
    infos: Iterable[GenerationInfo], interval_ns: int, after_slot: int
) -> Iterable[int]:
    chosen: dict[int, int] = {}
    for info in infos:
        slot = info.time_ns // interval_ns
        if slot > after_slot:
            chosen.setdefault(slot, info.epoch)
    return chosen.values()
