"""What a generation reaches, told as what it adds to its predecessor's reach.

Walking all generations of a partition in this way costs the length of the distinct runs, not the
number of generations times the size of their objects. Collection marks with it, fsck checks with it.
"""

from collections.abc import Iterator

import numpy as np

from slos.catalog import Generation
from slos.core import Core
from slos.extents import EMPTY, Entries, View, merge_runs, merge_slices, sort_entries
from slos.format import SIZE_PAGE


def newly_reached(
    core: Core, previous: Generation | None, generation: Generation
) -> Iterator[Entries]:
    """Entries that the generation shows and `previous`, of the same partition, may not show.

    The runs that both lists begin with need not be looked at but where the other runs of the
    previous generation hide what this generation's do not.
    """
    old = previous.run_ids if previous is not None else ()
    common = 0
    for one, other in zip(old, generation.run_ids, strict=False):
        if one != other:
            break
        common += 1
    own = _merged(core, generation, generation.run_ids[common:])
    yield own
    if previous is not None and 0 < common < len(old):
        hidden = _merged(core, previous, old[common:])
        yield from _shown(core, generation, generation.run_ids[:common], hidden, own)


def _merged(core: Core, generation: Generation, run_ids: tuple[int, ...]) -> Entries:
    runs = [core.view(run_id, generation).entries for run_id in run_ids]
    return merge_runs(runs, base=False) if runs else EMPTY


def _shown(
    core: Core,
    generation: Generation,
    run_ids: tuple[int, ...],
    hidden: Entries,
    own: Entries,
) -> Iterator[Entries]:
    """What the common runs hold at keys that are in `hidden` and not in `own`."""
    keys = sort_entries(
        np.concatenate([hidden.objects, own.objects]),
        np.concatenate([hidden.pages, own.pages]),
        np.repeat(np.array([1, 0], np.uint64), [len(hidden.ids), len(own.ids)]),
    )
    shown = keys.ids == 1
    if not shown.any():
        return
    views = [core.view(run_id, generation) for run_id in run_ids]
    wanted = View(Entries(keys.objects[shown], keys.pages[shown], keys.ids[shown]))
    for object_id in wanted.objects.tolist():
        pages, ids = merge_slices([view.slice(object_id, 0, SIZE_PAGE) for view in views])
        reached = np.isin(pages, wanted.part(object_id)[0])
        count = int(np.count_nonzero(reached))
        yield Entries(np.full(count, object_id, np.uint64), pages[reached], ids[reached])
