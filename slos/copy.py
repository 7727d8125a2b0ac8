"""Copying a store into a new file: what generations hold, and nothing else.

The copy has the same partitions, epochs, times, names and notes, under a new identity.
"""

import os
from collections.abc import Callable

import numpy as np

from slos.catalog import Generation, PartitionCreated
from slos.core import Core
from slos.extents import merge_slices
from slos.format import DEFAULT_SEGMENT_BYTES, SIZE_PAGE, Array
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from slos.transaction import ObjectTransaction, Stamp

_STEP_PAGES = 1024

Progress = Callable[[int, int], None]
ObjectPages = tuple[int, Array, Array]


def copy(
    path: str | os.PathLike[str],
    new: str | os.PathLike[str],
    *,
    segment_bytes: int = DEFAULT_SEGMENT_BYTES,
    progress: Progress | None = None,
) -> None:
    """Copy the store at `path`, which must not be mounted, into a new file.

    `progress` is called with (generations copied, generations in all). Raises ObjectExistsError
    where `new` exists, CorruptObjectError where a generation cannot be read; then the copy is
    removed.
    """
    with ObjectStore.open(path, read_only=True) as source:
        ObjectStore.create(new, segment_bytes=segment_bytes)
        try:
            with ObjectStore.open(new) as target:
                _copy(source, target, progress or _silent)
        except BaseException:
            os.unlink(new)
            raise


def _silent(done: int, total: int) -> None:
    """No one watches."""


def _copy(source: ObjectStore, target: ObjectStore, progress: Progress) -> None:
    core = source.core
    total = sum(len(partition.generations) for partition in core.catalog.partitions.values())
    done = 0
    for oid, partition in sorted(core.catalog.partitions.items()):
        target.core.append_event(PartitionCreated(oid, partition.properties, 0))
        base: Generation | None = None
        for generation in partition.generations.values():
            parent = partition.generations.get(generation.record.parent)
            _copy_generation(core, target, generation, parent or base)
            base = generation
            done += 1
            progress(done, total)
        # Epochs are never used again, also those of generations that are gone.
        target.core.catalog.partitions[oid].last_epoch = partition.last_epoch


def _copy_generation(
    core: Core, target: ObjectStore, generation: Generation, base: Generation | None
) -> None:
    record = generation.record
    parent = None if base is None else base.record.epoch
    stamp = Stamp(record.epoch, record.parent, record.time_ns, record.name, record.note)
    with target.begin(record.oid, parent=parent) as transaction:
        _copy_changes(core, transaction, generation, base)
        transaction.commit_as(stamp, wait=False)


def _copy_changes(
    core: Core, transaction: ObjectTransaction, generation: Generation, base: Generation | None
) -> None:
    old, new = _sizes(core, base), _sizes(core, generation)
    for object_id in sorted(old.keys() - new.keys()):
        transaction.remove(object_id)
    for object_id in sorted(new):
        if base is not None and _has_same_runs(core, generation, base, object_id):
            continue
        _copy_object(core, transaction, generation, base, object_id)
        transaction.truncate(object_id, new[object_id])


def _sizes(core: Core, generation: Generation | None) -> dict[int, int]:
    sizes: dict[int, int] = {}
    for view in core.views(generation) if generation is not None else ():
        column = view.entries
        chosen = column.pages == SIZE_PAGE
        sizes.update(zip(column.objects[chosen].tolist(), column.ids[chosen].tolist(), strict=True))
    return {object_id: size - 1 for object_id, size in sizes.items() if size}


def _has_same_runs(core: Core, one: Generation, other: Generation, object_id: int) -> bool:
    """Whether an object is the same because every run that speaks of it is shared."""
    differing = set(one.run_ids) ^ set(other.run_ids)
    return not any(len(core.view(run_id, one).part(object_id)[0]) for run_id in sorted(differing))


def _copy_object(
    core: Core,
    transaction: ObjectTransaction,
    generation: Generation,
    base: Generation | None,
    object_id: int,
) -> None:
    pages, ids = core.pages_of(generation, object_id)
    if base is not None:
        old_pages, old_ids = core.pages_of(base, object_id)
        for page in np.setdiff1d(old_pages, pages).tolist():
            transaction.discard(object_id, page * PAGE_BYTES, PAGE_BYTES)
        merged, before = merge_slices([(pages, np.zeros_like(ids)), (old_pages, old_ids)])
        index = np.searchsorted(merged, pages)
        index[index == len(merged)] = 0
        same = np.zeros(len(pages), np.bool_)
        if len(merged):
            same = (merged[index] == pages) & (before[index] == ids)
        pages, ids = pages[~same], ids[~same]
    for start in range(0, len(pages), _STEP_PAGES):
        numbers, wanted = pages[start : start + _STEP_PAGES], ids[start : start + _STEP_PAGES]
        data = np.empty((len(wanted), PAGE_BYTES), np.uint8)
        bad = core.reader.read(wanted, data, np.arange(len(wanted)))
        if len(bad):
            number = int(numbers[np.isin(wanted, bad)][0])
            raise core.damaged(generation, object_id, int(bad[0]), number)
        transaction.write_pages(object_id, numbers, data.reshape(-1))
