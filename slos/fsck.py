"""Checking a store that is not mounted: every checksum, every reference; and repairing it.

Repair rewrites what is kept twice (superblocks, sections of the checkpoint), cuts or skips damaged
parts of the log, and removes generations whose index is lost. Generations that lost pages stay:
reading those pages is an error, everything else in them is right.
"""

import os
from collections.abc import Callable, Iterator
from itertools import pairwise

import msgspec
import numpy as np

from slos import lifecycle
from slos.catalog import Generation, GenerationsDeleted
from slos.core import Core
from slos.device import Device
from slos.errors import CorruptObjectError, SlosError, StoreDeviceError
from slos.extents import Entries
from slos.format import (
    BLOCK_PAGES,
    MAX_RECORD_BYTES,
    SIZE_PAGE,
    SUPERBLOCK_OFFSETS,
    UNIT_BYTES,
    Array,
    RecordType,
    decode_directory,
    decode_pages,
)
from slos.reach import newly_reached
from slos.store import PAGE_BYTES

MAX_PROBLEMS = 1000
_SHIFT = np.uint64(4)

Progress = Callable[[str, int, int], None]


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """Something wrong; fields that do not apply are 0, offsets -1."""

    text: str
    oid: int = 0
    generation: int = 0
    object_id: int = 0
    offset: int = -1
    file_offset: int = -1


class FsckReport(msgspec.Struct, frozen=True, kw_only=True):
    """What a check found, what a repair did, and how much was looked at."""

    problems: tuple[Problem, ...]
    repairs: tuple[str, ...]
    partitions: int
    generations: int
    runs: int
    records: int
    bytes_read: int

    @property
    def is_clean(self) -> bool:
        """Whether nothing was wrong."""
        return not self.problems

    @property
    def is_cut(self) -> bool:
        """Whether there may be more problems than are listed."""
        return len(self.problems) == MAX_PROBLEMS


def fsck(
    path: str | os.PathLike[str], *, repair: bool = False, progress: Progress | None = None
) -> FsckReport:
    """Check a store; `progress` is called with (what, done, total).

    Raises StoreBusyError where the store is mounted, StoreFormatError where it is none.
    """
    device = lifecycle.open_device(path, read_only=not repair)
    try:
        return check_device(device, repair=repair, progress=progress)
    finally:
        device.close()


def check_device(
    device: Device, *, repair: bool = False, progress: Progress | None = None
) -> FsckReport:
    """Check the store on a device; leaves it open."""
    checker = _Checker(device, repair=repair, progress=progress or _silent)
    return checker.run()


def _silent(what: str, done: int, total: int) -> None:
    """No one watches."""


class _Checker:
    def __init__(self, device: Device, *, repair: bool, progress: Progress):
        self._device = device
        self._repair = repair
        self._progress = progress
        self._problems: list[Problem] = []
        self._repairs: list[str] = []
        self._records = 0
        self._bytes = 0
        self._bad: set[int] = set()

    def run(self) -> FsckReport:
        lifecycle.read_superblock(self._device)
        self._check_superblocks()
        core = self._load()
        if core is None:
            return self._report(None)
        lost = self._check_sections(core) or self._check_runs(core)
        self._check_blocks(core)
        doomed = list(self._check_generations(core))
        if self._repair and (self._problems or lost):
            self._mend(core, doomed)
        report = self._report(core)
        core.stop_threads()
        return report

    def _report(self, core: Core | None) -> FsckReport:
        partitions = core.catalog.partitions.values() if core is not None else ()
        return FsckReport(
            problems=tuple(self._problems),
            repairs=tuple(self._repairs),
            partitions=len(partitions),
            generations=sum(len(partition.generations) for partition in partitions),
            runs=len(core.catalog.runs) if core is not None else 0,
            records=self._records,
            bytes_read=self._bytes,
        )

    def _problem(self, problem: Problem) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def _check_superblocks(self) -> None:
        for offset in SUPERBLOCK_OFFSETS:
            try:
                lifecycle.read_copy(self._device, offset)
            except SlosError as error:
                self._problem(Problem(text=f"superblock at {offset}: {error}", file_offset=offset))

    def _load(self) -> Core | None:
        try:
            return lifecycle.load(self._device, read_only=True)
        except (CorruptObjectError, StoreDeviceError) as error:
            self._problem(Problem(text=str(error), file_offset=error.offset))
        if not self._repair:
            return None
        try:
            core = lifecycle.load(self._device, read_only=True, repair=True)
        except SlosError as error:
            self._problem(Problem(text=f"beyond repair: {error}"))
            return None
        self._repairs.append("read the log past what is damaged")
        return core

    def _check_sections(self, core: Core) -> bool:
        """Whether a copy is bad. Both copies of every chunk are read."""
        places = list(core.sections.places())
        bad = False
        for done, (key, offset, size) in enumerate(places):
            found = core.log.read_record(offset, min(size, MAX_RECORD_BYTES))
            self._count(size)
            kind = RecordType.ROOT if offset in core.sections.roots else RecordType.SECTION
            if found is None or found[0].type is not kind:
                bad = True
                what = f"one copy of section {key[0].name.lower()} {key[1]}"
                self._problem(Problem(text=f"{what} is damaged", file_offset=offset))
                core.catalog.dirty.add(key)
            self._progress("sections", done + 1, len(places))
        return bad

    def _count(self, size: int) -> None:
        self._records += 1
        self._bytes += size

    def _check_runs(self, core: Core) -> bool:
        bad = False
        for done, (run_id, run) in enumerate(list(core.catalog.runs.items())):
            for place, (offset, size) in enumerate(zip(run.leaves, run.sizes, strict=True)):
                self._count(size)
                if core.runs.read_leaf(run_id, place, offset, size) is None:
                    bad = True
                    self._problem(
                        Problem(text=f"index run {run_id} is damaged", file_offset=offset)
                    )
            self._progress("index", done + 1, len(core.catalog.runs))
        return bad

    def _check_blocks(self, core: Core) -> None:
        """Read every record of pages; remember the pages that are bad."""
        rows = core.catalog.blocks.rows
        order = np.argsort(rows["unit"], kind="stable")
        units = rows["unit"][order]
        firsts = np.flatnonzero(np.diff(units, prepend=~units[:1]))
        bounds = [*firsts.tolist(), len(order)]
        for done, (start, stop) in enumerate(pairwise(bounds)):
            which = rows[order[start:stop]]
            offset = int(which["unit"][0]) * UNIT_BYTES
            size = int(which["size"][0])
            self._count(size)
            if not self._is_whole(core, which, offset, size):
                self._bad.update(which["id"].tolist())
            self._progress("pages", done + 1, len(bounds) - 1)

    def _is_whole(self, core: Core, rows: np.ndarray, offset: int, size: int) -> bool:
        found = core.log.read_record(offset, min(size, MAX_RECORD_BYTES))
        if found is None or decode_pages(*found) is None:
            return False
        directory = decode_directory(*found)
        assert directory is not None
        owned = set(directory[0].tolist())
        return all(
            block * BLOCK_PAGES + place in owned
            for block, mask in zip(rows["id"].tolist(), rows["mask"].tolist(), strict=True)
            for place in range(BLOCK_PAGES)
            if mask >> place & 1
        )

    def _check_generations(self, core: Core) -> Iterator[tuple[int, int]]:
        """(oid, epoch) of the generations whose index is lost."""
        total = sum(len(p.generations) for p in core.catalog.partitions.values())
        done = 0
        for oid, partition in core.catalog.partitions.items():
            previous: Generation | None = None
            for epoch, generation in partition.generations.items():
                try:
                    for entries in newly_reached(core, previous, generation):
                        self._check_entries(core, generation, entries)
                    previous = generation
                except CorruptObjectError as error:
                    self._problem(
                        Problem(
                            text=str(error),
                            oid=oid,
                            generation=epoch,
                            file_offset=error.offset,
                        )
                    )
                    yield oid, epoch
                done += 1
                self._progress("generations", done, total)

    def _check_entries(self, core: Core, generation: Generation, entries: Entries) -> None:
        data = (entries.pages != SIZE_PAGE) & (entries.ids != 0)
        ids = entries.ids[data]
        lost = core.locate(ids).offsets == 0
        if self._bad:
            lost |= np.isin(ids >> _SHIFT, np.array(sorted(self._bad), np.uint64))
        for index in np.flatnonzero(lost)[:MAX_PROBLEMS].tolist():
            self._problem(self._lost_page(core, generation, entries, data, index))

    def _lost_page(
        self,
        core: Core,
        generation: Generation,
        entries: Entries,
        data: np.ndarray,
        index: int,
    ) -> Problem:
        object_id = int(entries.objects[data][index])
        number = int(entries.pages[data][index])
        page_id: Array = entries.ids[data][index : index + 1]
        record = generation.record
        return Problem(
            text=str(core.damaged(generation, object_id, int(page_id[0]), number)),
            oid=record.oid,
            generation=record.epoch,
            object_id=object_id,
            offset=number * PAGE_BYTES,
            file_offset=int(core.locate(page_id).offsets[0]),
        )

    def _mend(self, core: Core, doomed: list[tuple[int, int]]) -> None:
        """Write what is right as a new checkpoint, under new superblocks."""
        lifecycle.take_over(core, afresh=True)
        for oid, epoch in doomed:
            core.append_event(GenerationsDeleted(oid, (epoch,)))
            self._repairs.append(f"removed generation {epoch} of partition {oid}: no index")
        core.catalog.drop_runs(
            [run_id for run_id in core.catalog.runs if self._is_lost(core, run_id)]
        )
        core.load_hashes()
        lifecycle.rewrite(core)
        self._repairs.append("wrote both superblocks and the checkpoint anew")

    def _is_lost(self, core: Core, run_id: int) -> bool:
        reached = any(
            run_id in generation.run_ids for _, generation in core.catalog.live_generations()
        )
        return not reached


def as_text(report: FsckReport) -> Iterator[str]:
    """Lines for a terminal: each finding, each repair, and what they come to."""
    for problem in report.problems:
        place = str(problem.file_offset)
        told = problem.file_offset < 0 or place in problem.text
        yield problem.text if told else f"{problem.text} (file offset {place})"
    yield from (f"repaired: {repair}" for repair in report.repairs)
    looked_at = (
        f"partitions: {report.partitions}, generations: {report.generations}, "
        f"records: {report.records}, bytes read: {report.bytes_read}"
    )
    if report.is_clean:
        yield f"clean ({looked_at})"
        return
    advice = "slsctl fsck --repair mends what can be mended"
    if report.repairs:
        advice = "run it again"
    elif all(problem.offset >= 0 for problem in report.problems):
        advice = "lost pages stay lost; everything else in these generations reads right"
    at_least = "at least " if report.is_cut else ""
    yield f"findings: {at_least}{len(report.problems)} ({looked_at}); {advice}"
