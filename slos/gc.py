"""Collection: find the pages and runs that no generation reaches, empty sparse segments, free them.

A cycle goes in bounded steps: mark, sweep, move, and one checkpoint that lets the emptied segments
go. Commits, deletions and reads go on between the steps. What keeps a page from being lost to a
commit that comes in the middle: blocks begun after the cycle started are never touched, and an
old page may be shared during a cycle only if it is marked, or gets marked by sharing it.
"""

import time
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from slos import lifecycle
from slos.catalog import Generation, SectionKey, SectionKind
from slos.core import Core
from slos.errors import StoreFullError
from slos.extents import without_sizes
from slos.format import BLOCK_PAGES, UNIT_BYTES, Array, Draft, encode_moved
from slos.ingest import page_hashes
from slos.reach import newly_reached
from slos.store import PAGE_BYTES

_SPARSE = 0.85
_MARK_SECONDS = 0.002
_MOVE_PAGES = 128
_SHIFT = np.uint64(4)
_INDEX = np.uint64(BLOCK_PAGES - 1)


class Marks:
    """Which pages of the blocks that were there at the start are reached."""

    def __init__(self, blocks: Array, limit: int):
        self.blocks = blocks
        self.limit = limit
        self.live = np.zeros(len(blocks) * BLOCK_PAGES, np.bool_)

    def _places(self, page_ids: Array) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """(index into `live`, whether there is one) of each page."""
        owners = page_ids >> _SHIFT
        if not len(self.blocks):
            return np.zeros(len(owners), np.int64), np.zeros(len(owners), np.bool_)
        index = np.minimum(np.searchsorted(self.blocks, owners), len(self.blocks) - 1)
        place = index * BLOCK_PAGES + (page_ids & _INDEX).astype(np.int64)
        return place, self.blocks[index] == owners

    def mark(self, page_ids: Array) -> None:
        """These pages are reached."""
        place, known = self._places(page_ids)
        self.live[place[known]] = True

    def may_share(self, page_ids: Array) -> NDArray[np.bool_]:
        """Pages that this cycle will not take away."""
        place, known = self._places(page_ids)
        young = page_ids >> _SHIFT >= np.uint64(self.limit)
        if not len(self.live):
            return young
        return np.asarray(young | (known & self.live[place]))

    def masks(self) -> NDArray[np.int64]:
        """Reached pages of each block as a bit mask."""
        bits = 1 << np.arange(BLOCK_PAGES, dtype=np.int64)
        return np.asarray(self.live.reshape(-1, BLOCK_PAGES) @ bits)


class Cycle:
    """One collection, from mark to free. `steps` does the work."""

    def __init__(self, core: Core):
        self._core = core
        self._victims: set[int] = set()
        with core.append_lock, core.lock:
            catalog = core.catalog
            own = [holder.first_block() for holder in core.holders]
            limit = min([catalog.next_block, *(first for first in own if first is not None)])
            ids = catalog.blocks.rows["id"]
            self._marks = Marks(ids[: int(np.searchsorted(ids, np.uint64(limit)))].copy(), limit)
            self._first_young_run = catalog.next_run
            self._generations = sorted(
                catalog.live_generations(), key=lambda pair: (pair[0], pair[1].record.epoch)
            )
            for holder in core.holders:
                for page_ids in holder.held_pages():
                    self._marks.mark(page_ids)
            catalog.deleted_bytes = 0
            core.may_share = self._marks.may_share
            core.on_reference = self._marks.mark

    def steps(self) -> Iterator[None]:
        """Do the cycle; control comes back after every bounded step."""
        core = self._core
        try:
            yield from self._mark()
            yield from self._sweep()
            self._choose()
            yield
            if self._victims:
                yield from self._move()
                yield from self._free()
            core.counts.collections += 1
        finally:
            with core.lock:
                core.may_share = core.on_reference = None

    def _mark(self) -> Iterator[None]:
        core = self._core
        began = time.monotonic()
        previous: Generation | None = None
        owner = 0
        for oid, generation in self._generations:
            for entries in newly_reached(core, previous if oid == owner else None, generation):
                with core.lock:
                    self._marks.mark(without_sizes(entries))
            owner, previous = oid, generation
            if time.monotonic() - began > _MARK_SECONDS:
                yield
                began = time.monotonic()

    def _sweep(self) -> Iterator[None]:
        """Forget what is not reached."""
        core = self._core
        core.load_hashes()
        with core.append_lock, core.lock:
            catalog = core.catalog
            reached = {run for _, generation in self._generations for run in generation.run_ids}
            old = [run for run in catalog.runs if run < self._first_young_run]
            unreached = [run for run in old if run not in reached]
            catalog.drop_runs(unreached)
            core.runs.drop(unreached)
            masks = self._marks.masks()
            index, known = catalog.blocks.find(self._marks.blocks)
            dead = np.zeros(len(catalog.blocks), np.bool_)
            dead[index[known & (masks == 0)]] = True
            catalog.drop_blocks(dead)
            levels = core.hashes.settled()
        yield
        # Until its turn comes a level proposes pages that are gone; `may_share` refuses them.
        for level in levels:
            with core.lock:
                void = core.hashes.prune(level, self._is_block)
                if void is not None:
                    core.catalog.dirty.add((SectionKind.HASHES, void))
            yield

    def _is_block(self, page_ids: Array) -> NDArray[np.bool_]:
        return self._core.catalog.blocks.find(page_ids >> _SHIFT)[1]

    def _live_rows(self) -> NDArray[np.int64]:
        """Reached pages of every row of the block table, as bit masks."""
        rows = self._core.catalog.blocks.rows
        masks = rows["mask"].astype(np.int64)
        if len(self._marks.blocks):
            blocks = self._marks.blocks
            index = np.minimum(np.searchsorted(blocks, rows["id"]), len(blocks) - 1)
            old = blocks[index] == rows["id"]
            masks[old] &= self._marks.masks()[index[old]]
        return masks

    def _choose(self) -> None:
        """Victims: sparse segments, if emptying them frees at least one."""
        core = self._core
        with core.append_lock, core.lock:
            self._victims = self._sparse_segments()

    def _sparse_segments(self) -> set[int]:
        core = self._core
        log = core.log
        used = np.zeros(len(log.epochs) + 1, np.int64)
        rows = core.catalog.blocks.rows
        segments = self._segments(rows["unit"])
        np.add.at(used, segments, core.catalog.blocks.live_shares(self._live_rows()))
        for run in core.catalog.runs.values():
            for offset, size in zip(run.leaves, run.sizes, strict=True):
                used[log.segment_of(offset)] += size
        sections = used.copy()
        for _, offset, size in core.sections.places():
            sections[log.segment_of(offset)] += size
        head = log.segment_of(log.position)
        victims = {
            index
            for index, epoch in enumerate(log.epochs)
            if epoch and index != head and sections[index] < _SPARSE * log.segment_bytes
        }
        # Copies of sections are written anew by every checkpoint that touches them.
        moved = int(sections[sorted(victims)].sum())
        return victims if len(victims) - -(-moved // log.segment_bytes) >= 1 else set()

    def _segments(self, units: Array) -> NDArray[np.int64]:
        log = self._core.log
        first = log.segment_start(0)
        return (units.astype(np.int64) * UNIT_BYTES - first) // log.segment_bytes

    def _move(self) -> Iterator[None]:
        """Carry what is reached out of the victims."""
        core = self._core
        try:
            for page_ids in self._batches():
                self._move_pages(page_ids)
                yield
            for run_id in self._runs_in_victims():
                self._move_run(run_id)
                yield
        except StoreFullError:
            # What is empty already may still be freed; the rest keeps its place.
            self._keep_occupied()
        with core.append_lock, core.lock:
            self._keep_occupied()
            core.catalog.dirty.update(self._sections_in_victims())

    def _batches(self) -> list[Array]:
        """Reached pages in the victims, whole blocks together, in the order of the log."""
        core = self._core
        with core.lock:
            rows = core.catalog.blocks.rows
            masks = self._live_rows()
            chosen = np.isin(self._segments(rows["unit"]), sorted(self._victims)) & (masks != 0)
            order = np.argsort(rows["unit"][chosen], kind="stable")
            blocks = rows["id"][chosen][order]
            held = masks[chosen][order]
        places = np.arange(BLOCK_PAGES)
        is_held = (held[:, None] >> places & 1).astype(np.bool_)
        page_ids = (blocks[:, None] * np.uint64(BLOCK_PAGES) + places.astype(np.uint64))[is_held]
        ends = np.cumsum(np.count_nonzero(is_held, axis=1))
        cuts = ends[:-1][np.diff(ends // _MOVE_PAGES) > 0]
        return np.split(page_ids, cuts) if len(page_ids) else []

    def _move_pages(self, page_ids: Array) -> None:
        core = self._core
        data = np.empty((len(page_ids), PAGE_BYTES), np.uint8)
        bad = core.reader.read(page_ids, data, np.arange(len(page_ids)))
        if len(bad):
            # Damaged blocks stay where they are, and their segments with them.
            good = ~np.isin(page_ids >> _SHIFT, bad >> _SHIFT)
            page_ids, data = page_ids[good], data[good]
        groups = _groups(page_ids)
        drafts: list[Draft] = []
        for start, stop in groups:
            pages = data[start:stop].reshape(-1).data
            hashes = page_hashes(pages, stop - start)
            drafts.append(encode_moved(pages, hashes.tobytes(), page_ids[start:stop]))

        def registered(offsets: list[int], _: int) -> None:
            for (start, stop), draft, offset in zip(groups, drafts, offsets, strict=True):
                core.catalog.move_pages(page_ids[start:stop], offset, draft.record_bytes)
                core.counts.bytes_moved += draft.record_bytes

        if drafts:
            core.append(drafts, registered)

    def _runs_in_victims(self) -> list[int]:
        core = self._core
        with core.lock:
            return [
                run_id
                for run_id, run in core.catalog.runs.items()
                if any(core.log.segment_of(leaf) in self._victims for leaf in run.leaves)
            ]

    def _move_run(self, run_id: int) -> None:
        core = self._core
        run = core.catalog.runs[run_id]
        places = [
            place
            for place, leaf in enumerate(run.leaves)
            if core.log.segment_of(leaf) in self._victims
        ]
        drafts: list[Draft] = []
        kept: list[int] = []
        for place in places:
            found = core.log.read_record(run.leaves[place], run.sizes[place])
            if found is not None:
                drafts.append(Draft.copy(*found))
                kept.append(place)

        def registered(offsets: list[int], _: int) -> None:
            for place, offset in zip(kept, offsets, strict=True):
                run.leaves[place] = offset
            core.catalog.add_run(run_id, run)

        if drafts:
            core.append(drafts, registered)

    def _keep_occupied(self) -> None:
        """Take victims that could not be emptied off the list."""
        core = self._core
        with core.lock:
            rows = core.catalog.blocks.rows[self._live_rows() != 0]
            occupied = set(np.unique(self._segments(rows["unit"])).tolist())
            for run in core.catalog.runs.values():
                occupied.update(core.log.segment_of(leaf) for leaf in run.leaves)
            self._victims -= occupied

    def _sections_in_victims(self) -> set[SectionKey]:
        core = self._core
        return {
            key
            for key, offset, _ in core.sections.places()
            if core.log.segment_of(offset) in self._victims
        }

    def _free(self) -> Iterator[None]:
        """One checkpoint without the victims; then they are free, and given back one by one."""
        core = self._core
        # The checkpoint keeps commits out: what it would wait for is synced before.
        core.wait_durable(core.log.written_lsn)
        yield
        lifecycle.checkpoint(core, freed=frozenset(self._victims))
        yield
        for index in sorted(self._victims):
            core.log.punch(index)
            with core.append_lock:
                core.reader.clear()
                core.log.set_free(index)
            yield
        with core.append_lock:
            core.log.keep_spare()


def _groups(page_ids: Array) -> list[tuple[int, int]]:
    """Slices of at most one block's length that cut no block."""
    owners = (page_ids >> _SHIFT).tolist()
    sizes: dict[int, int] = defaultdict(int)
    for owner in owners:
        sizes[owner] += 1
    groups: list[tuple[int, int]] = []
    start = stop = 0
    for size in sizes.values():
        if stop + size - start > BLOCK_PAGES:
            groups.append((start, stop))
            start = stop
        stop += size
    return [*groups, (start, stop)] if stop > start else groups


def wanted(core: Core) -> bool:
    """Whether enough was deleted since the last cycle to be worth one."""
    with core.lock:
        log = core.log
        used = (len(log.epochs) - len(log.free)) * log.segment_bytes
        return core.catalog.deleted_bytes > max(2 * log.segment_bytes, used // 5)
