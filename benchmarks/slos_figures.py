"""Figures of the object store, each beside its limit, measured in the same run.

    python benchmarks/slos_figures.py [--directory DIR] [--quick] [ROW …]

Prints a markdown table. The store and the limit's file lie in DIR, so name one on the disk that
is to be measured. Knows the store's public interface and plain system calls; for the limit of
reading also where pages lie.
"""

import argparse
import contextlib
import os
import random
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import NamedTuple

import lz4.block
import numpy as np
from xxhash import xxh3_64_digest, xxh3_64_intdigest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slos.copy import copy
from slos.core import COMPRESS_THREADS
from slos.format import HEADER_BYTES
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES

MIB = 1 << 20
PAGES = 160
Row = tuple[str, str, str, str, bool]


class Bench:
    """Where the files lie and how much is written."""

    def __init__(self, directory: Path, *, quick: bool):
        self.directory = directory
        self.size = (128 if quick else 1024) * MIB
        self.quick = quick
        self.chance = np.random.default_rng(1)

    @contextlib.contextmanager
    def store(self) -> Iterator[tuple[ObjectStore, Path]]:
        path = self.directory / "figures.store"
        ObjectStore.create(path)
        try:
            with ObjectStore.open(path) as store:
                yield store, path
        finally:
            path.unlink()

    def random_bytes(self, length: int) -> memoryview:
        return memoryview(self.chance.integers(0, 1 << 63, length // 8, np.uint64).tobytes())

    def heap(self, length: int) -> memoryview:
        """Pages of this process's own heap, filled with ordinary Python objects."""
        keep: list[object] = []
        while (found := own_heap(length)) is None:
            start = len(keep)
            keep += [
                {"id": i, "name": f"user {i}", "tags": [f"t{i % 97}", "x"], "score": i / 7}
                for i in range(start, start + 200_000)
            ]
        return memoryview(found)


def own_heap(length: int) -> bytes | None:
    """`length` bytes of writable memory of this process, zero pages left out."""
    parts, have = [], 0
    maps = Path("/proc/self/maps").read_text()
    memory = os.open("/proc/self/mem", os.O_RDONLY)
    try:
        for match in re.finditer(
            r"([0-9a-f]+)-([0-9a-f]+) rw-p \S+ 00:00 0 *(\[heap\])?$", maps, re.M
        ):
            start, end = int(match[1], 16), int(match[2], 16)
            for at in range(start, end, 16 * MIB):
                data = os.pread(memory, min(16 * MIB, end - at), at)
                rows = np.frombuffer(data, np.uint64).reshape(-1, PAGE_BYTES // 8)
                parts.append(rows[rows.any(axis=1)].tobytes())
                have += len(parts[-1])
                if have >= length:
                    return b"".join(parts)[:length]
    finally:
        os.close(memory)
    return None


def plain_write(path: Path, data: memoryview, step: int = 4 * MIB) -> float:
    """Seconds of `write` and one `fdatasync`."""
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    began = time.perf_counter()
    for start in range(0, len(data), step):
        os.write(fd, data[start : start + step])
    os.fdatasync(fd)
    seconds = time.perf_counter() - began
    os.close(fd)
    path.unlink()
    return seconds


def store_write(bench: Bench, data: memoryview) -> float:
    with bench.store() as (store, _):
        store.create_partition(1)
        began = time.perf_counter()
        with store.begin(1) as transaction:
            for start in range(0, len(data), 16 * MIB):
                transaction.write(1, start, data[start : start + 16 * MIB])
            transaction.commit()
        return time.perf_counter() - began


def best(times: int, run: Callable[[], float]) -> float:
    return min(run() for _ in range(times))


def alternate(
    times: int, one: Callable[[], float], other: Callable[[], float]
) -> tuple[float, float]:
    """The medians of two measurements taken in turns, in shuffled order: the disk's mood changes."""
    chance = random.Random(times)
    took: tuple[list[float], list[float]] = ([], [])
    for _ in range(times):
        for which in chance.sample((0, 1), 2):
            took[which].append((one, other)[which]())
    return statistics.median(took[0]), statistics.median(took[1])


def speed(length: int, seconds: float) -> str:
    return f"{length / seconds / MIB:,.0f} MiB/s"


def row_stream(bench: Bench) -> Row:
    data = bench.random_bytes(bench.size)
    path = bench.directory / "plain"
    plain_write(path, data)
    ours, plain = alternate(15, lambda: store_write(bench, data), lambda: plain_write(path, data))
    return (
        f"{bench.size >> 20} MiB incompressible, one generation, durable",
        f"{speed(len(data), ours)} ({plain / ours:.0%})",
        f"write + fdatasync {speed(len(data), plain)}",
        "≥ 80 %",
        plain / ours >= 0.8,
    )


def row_heap(bench: Bench) -> Row:
    data = bench.heap(bench.size)
    threads = COMPRESS_THREADS

    def compress(start: int) -> int:
        part = data[start : start + MIB]
        return sum(
            len(lz4.block.compress(part[at : at + 65536], store_size=False))
            for at in range(0, len(part), 65536)
        )

    def lz4_alone() -> float:
        began = time.perf_counter()
        with ThreadPoolExecutor(threads) as pool:
            list(pool.map(compress, range(0, len(data), MIB)))
        return time.perf_counter() - began

    ours, limit = alternate(3, lambda: store_write(bench, data), lz4_alone)
    return (
        f"{bench.size >> 20} MiB of a Python heap, one generation, durable",
        f"{speed(len(data), ours)} ({limit / ours:.0%})",
        f"lz4 alone, {threads} thread(s) as here {speed(len(data), limit)}",
        "≥ 80 %",
        limit / ours >= 0.8,
    )


def commit_costs(
    bench: Bench, data: memoryview, seconds: float, rate: float
) -> tuple[list[float], list[float], list[float]]:
    """(wall, CPU, lateness) in ms of commits of 160 scattered pages."""
    wall, cpu, late = [], [], []
    pages = bench.size // PAGE_BYTES
    with bench.store() as (store, _):
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.write(1, 0, bench.random_bytes(bench.size))
            parent = transaction.commit().epoch
        began = time.perf_counter()
        number = 0
        while (due := number / rate) < seconds:
            time.sleep(max(0.0, began + due - time.perf_counter()))
            numbers = np.sort(bench.chance.choice(pages, PAGES, replace=False))
            start = (number * 37 % (len(data) // PAGE_BYTES - PAGES)) * PAGE_BYTES
            part = bytearray(data[start : start + PAGES * PAGE_BYTES])
            part[0::PAGE_BYTES] = bytes([number & 255]) * PAGES  # No page is one seen before.
            part[1::PAGE_BYTES] = bytes([number >> 8 & 255]) * PAGES
            at, used = time.perf_counter(), time.process_time()
            with store.begin(1, parent=parent) as transaction:
                transaction.write_pages(1, numbers, part)
                parent = transaction.commit().epoch
            cpu.append((time.process_time() - used) * 1e3)
            wall.append((time.perf_counter() - at) * 1e3)
            late.append((time.perf_counter() - began - due) * 1e3)
            number += 1
    return wall, cpu, late


class Least(NamedTuple):
    """Medians in ms of what no commit can leave out, one after the other at the same pace."""

    wall: float
    hash: float
    lookup: float
    lz4: float
    records: float
    write: float
    sync: float

    @property
    def cpu(self) -> float:
        return sum(self[1:])

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {getattr(self, name):.2f}" for name in self._fields[1:])
        return f"{self.wall:.2f} ms, CPU {self.cpu:.2f}: {parts}"


HEADER = struct.Struct("<4sBBHIIQQQQQ")


def least_record(number: int, *parts: bytes | memoryview) -> list[bytes | memoryview]:
    """A record as small as one can be that tells what it is and whether it is whole."""
    length = sum(map(len, parts))
    summed = xxh3_64_intdigest(parts[-1])
    head = HEADER.pack(b"SLr1", 3, 0, 16, length, 0, 1, number, number, 0, summed)
    return [head, xxh3_64_digest(head), *parts, bytes(-length % 64)]


def least_index(numbers: np.ndarray, first: int) -> bytes:
    """Which page lies where, as columns of differences, compressed."""
    columns = np.array([np.ones_like(numbers), numbers, np.arange(first, first + len(numbers))])
    columns[:, 1:] -= columns[:, :-1].copy()
    raw = columns.astype("<u8").view(np.uint8).reshape(3, -1, 8).transpose(0, 2, 1).tobytes()
    return lz4.block.compress(raw, store_size=False)


def least_commit(bench: Bench, data: memoryview, seconds: float, rate: float) -> Least:
    """Hash pages, look them up, compress blocks, make records and an index, one pwritev, fdatasync.

    Plain calls, no store around them: no objects, no runs, no generations, no locks.
    """
    path = bench.directory / "plain"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    rows: list[list[float]] = []
    known = np.zeros(8 * bench.size // PAGE_BYTES, np.uint8)
    position, number, began = 0, 0, time.perf_counter()
    while number / rate < seconds:
        time.sleep(max(0.0, began + number / rate - time.perf_counter()))
        numbers = np.sort(bench.chance.choice(bench.size // PAGE_BYTES, PAGES, replace=False))
        start = (number * 37 % (len(data) // PAGE_BYTES - PAGES)) * PAGE_BYTES
        part = memoryview(bytearray(data[start : start + PAGES * PAGE_BYTES]))
        at, used = time.perf_counter(), [time.process_time()]
        pages = [part[page : page + PAGE_BYTES] for page in range(0, len(part), PAGE_BYTES)]
        digests = b"".join(map(xxh3_64_digest, pages))
        used.append(time.process_time())
        slots = np.frombuffer(digests, np.int64) & (len(known) - 1)
        known[slots] += 1
        used.append(time.process_time())
        blocks = [part[block : block + 65536] for block in range(0, len(part), 65536)]
        packed = [lz4.block.compress(block, store_size=False) for block in blocks]
        bodies = [min(pair, key=len) for pair in zip(packed, blocks, strict=True)]
        used.append(time.process_time())
        records: list[bytes | memoryview] = []
        for place, body in enumerate(bodies):
            records += least_record(place, digests[place * 128 : place * 128 + 128], body)
        records += least_record(11, least_index(numbers, number * PAGES))
        records += least_record(12, f"generation {number}".encode())
        used.append(time.process_time())
        position += os.pwritev(fd, records, position)
        used.append(time.process_time())
        os.fdatasync(fd)
        used.append(time.process_time())
        rows.append([time.perf_counter() - at, *np.diff(used)])
        number += 1
    os.close(fd)
    path.unlink()
    return Least(*(np.median(rows, axis=0) * 1e3).tolist())


def row_commit(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    seconds = 5 if bench.quick else 60
    for what, data in (
        ("of a Python heap", bench.heap(64 * MIB)),
        ("incompressible", bench.random_bytes(64 * MIB)),
    ):
        least = least_commit(bench, data, seconds / 4, 100.0)
        wall, cpu, late = commit_costs(bench, data, seconds, 100.0)
        middle, busy = statistics.median(wall), statistics.median(cpu)
        rows.append(
            (
                f"commit of {PAGES} scattered pages {what}, durable, {len(wall)} of them",
                f"{middle:.2f} ms, p99 {np.percentile(wall, 99):.1f}, CPU {busy:.2f} ms",
                str(least),
                "≤ 3 ms, CPU ≤ 1 ms",
                middle <= 3 and busy <= 1,
            )
        )
        tenth = len(late) // 10
        first, last = statistics.median(late[:tenth]), statistics.median(late[-tenth:])
        rows.append(
            (
                f"100 commits a second for {seconds} s, {what}",
                f"done after {first:.1f} ms at the start, {last:.1f} ms at the end",
                f"worst {max(late):.0f} ms",
                "no growing delay",
                last < 2 * first + 2,
            )
        )
    return rows


class Floor:
    """What `floor_read.c` needs for the pages of an object, copied as they lie in the store."""

    def __init__(self, bench: Bench):
        self.bench = bench
        source = Path(__file__).with_name("programs") / "floor_read.c"
        self.program = bench.directory / "floor_read"
        subprocess.run(["cc", "-O2", "-o", self.program, source], check=True)

    def blocks(self, store: ObjectStore, epoch: int) -> int:
        """How many blocks hold the pages of object 1 of a generation of partition 1."""
        _, ids = store.core.pages_of(store.core.catalog.generation(1, epoch), 1)
        return len(np.unique(store.core.locate(ids).offsets))

    def seconds(self, store: ObjectStore, path: Path, epoch: int, *words: str) -> float:
        """Of reading that object."""
        core, count = store.core, self.bench.size // PAGE_BYTES
        pages, ids = core.pages_of(core.catalog.generation(1, epoch), 1, 0, count)
        places = core.locate(ids)
        row, _ = core.catalog.blocks.find(ids >> np.uint64(4))
        directory = 8 * core.catalog.blocks.rows["total"][row].astype(np.int64)
        offsets = places.offsets + HEADER_BYTES + directory + places.slots * PAGE_BYTES
        order = np.argsort(offsets)
        plan = self.bench.directory / "plan"
        np.stack([offsets, pages.astype(np.int64)], axis=1)[order].tofile(plan)
        command = [str(self.program), str(path), str(plan), str(count), *words]
        return float(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def add_deltas(bench: Bench, store: ObjectStore, pages: int, heap: memoryview | None) -> int:
    """A generation of `bench.size` and deltas upon it; the newest epoch."""

    def some(length: int, number: int) -> bytearray | memoryview:
        if heap is None:
            return bench.random_bytes(length)
        start = number * 613 % ((len(heap) - length) // PAGE_BYTES) * PAGE_BYTES
        part = bytearray(heap[start : start + length])
        part[0::PAGE_BYTES] = bytes([number & 255]) * (length // PAGE_BYTES)
        part[1::PAGE_BYTES] = bytes([number >> 8 & 255]) * (length // PAGE_BYTES)
        return part

    store.create_partition(1)
    with store.begin(1) as transaction:
        for start in range(0, bench.size, 16 * MIB):
            transaction.write(1, start, some(16 * MIB, 50_000 + start // MIB))
        parent = transaction.commit().epoch
    for number in range(100 if bench.quick else 1000):
        numbers = np.sort(bench.chance.choice(bench.size // PAGE_BYTES, pages, replace=False))
        with store.begin(1, parent=parent) as transaction:
            transaction.write_pages(1, numbers, some(pages * PAGE_BYTES, number))
            parent = transaction.commit(wait=False).epoch
    store.sync()
    return parent


def row_read(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    count = 100 if bench.quick else 1000
    buffer = bytearray(bench.size)
    view = memoryview(buffer)
    floor = Floor(bench)
    for pages, heap in ((16, None), (PAGES, None), (PAGES, bench.heap(128 * MIB))):
        with bench.store() as (store, path):
            parent = add_deltas(bench, store, pages, heap)

            def read(epoch: int, store: ObjectStore = store) -> float:
                began = time.perf_counter()
                store.read_into(1, epoch, 1, 0, view)
                return time.perf_counter() - began

            def cold(epoch: int, path: Path = path) -> float:
                fd = os.open(path, os.O_RDONLY)
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
                os.close(fd)
                return read(epoch)

            for how, seconds, words in (
                ("cached", alternate(5, partial(read, parent), partial(read, 1)), ()),
                ("from disk", alternate(3, partial(cold, parent), partial(cold, 1)), ("cold",)),
            ):
                late, early = seconds
                if heap is not None:
                    more = floor.blocks(store, parent) / floor.blocks(store, 1)
                    limit = f"; there {1 / more:.0%} of the blocks are to be decompressed"
                else:
                    least = [floor.seconds(store, path, epoch, *words) for epoch in (parent, 1)]
                    limit = (
                        f"; plain C, unchecked: {speed(bench.size, least[0])}, "
                        f"{speed(bench.size, least[1])} ({least[1] / least[0]:.0%})"
                    )
                what = "incompressible" if heap is None else "of a Python heap"
                rows.append(
                    (
                        f"read {bench.size >> 20} MiB {what} {how}, {count} deltas of {pages} pages",
                        f"{speed(bench.size, late)} ({early / late:.0%})",
                        f"at generation 1 {speed(bench.size, early)}{limit}",
                        "≥ 80 %",
                        early / late >= 0.8,
                    )
                )
    return rows


OPEN_PROGRAM = """
import sys, time
sys.path.insert(0, sys.argv[2])
began = time.perf_counter()
from slos.objstore import ObjectStore
imported = time.perf_counter()
store = ObjectStore.open(sys.argv[1])
opened = time.perf_counter()
peak = next(l.split()[1] for l in open("/proc/self/status") if l.startswith("VmHWM"))
count = sum(len(store.generations(oid)) for oid in store.partitions())
print(imported - began, opened - imported, peak, count)
store.close()
"""


def row_open(bench: Bench) -> list[Row]:
    generations = 500 if bench.quick else 10_000
    path = bench.directory / "many.store"
    ObjectStore.create(path)
    base = bench.random_bytes(4 * MIB)
    crashed = bench.directory / "crashed.store"
    with ObjectStore.open(path) as store:
        for oid in (1, 2, 3):
            store.create_partition(oid)
            with store.begin(oid) as transaction:
                transaction.write(1, 0, base)
                parent = transaction.commit(wait=False).epoch
            for _ in range(generations - 1):
                numbers = bench.chance.choice(1024, 4, replace=False)
                with store.begin(oid, parent=parent) as transaction:
                    transaction.write_pages(1, numbers, bench.random_bytes(4 * PAGE_BYTES))
                    parent = transaction.commit(wait=False).epoch
        store.sync()
        subprocess.run(["cp", "--reflink=auto", str(path), str(crashed)], check=True)
    rows: list[Row] = []
    for what, name in (("closed cleanly", path), ("after a crash", crashed)):
        root = str(Path(__file__).resolve().parents[1])
        command = [sys.executable, "-c", OPEN_PROGRAM, str(name), root]
        out = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        seconds, memory = float(out[1]), int(out[2]) / 1024
        rows.append(
            (
                f"open {int(out[3])} generations in 3 partitions, {what}",
                f"{seconds:.2f} s, {memory:.0f} MiB",
                f"imports {float(out[0]):.2f} s",
                "≤ 1 s, ≤ 150 MiB",
                seconds <= 1 and memory <= 150,
            )
        )
        name.unlink()
    return rows


def row_bytes(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for what, data in (
        ("incompressible", bench.random_bytes(64 * MIB)),
        ("of a Python heap", bench.heap(64 * MIB)),
    ):
        with bench.store() as (store, _):
            store.create_partition(1)
            with store.begin(1) as transaction:
                transaction.write(1, 0, bench.random_bytes(bench.size))
                parent = transaction.commit().epoch
            before = store.statistics()
            alone = 0
            for number in range(100):
                numbers = np.sort(
                    bench.chance.choice(bench.size // PAGE_BYTES, PAGES, replace=False)
                )
                start = number * PAGES * PAGE_BYTES % (len(data) - PAGES * PAGE_BYTES)
                part = data[start : start + PAGES * PAGE_BYTES]
                for at in range(0, len(part), 65536):
                    block = part[at : at + 65536]
                    alone += min(len(block), len(lz4.block.compress(block, store_size=False)))
                with store.begin(1, parent=parent) as transaction:
                    transaction.write_pages(1, numbers, part)
                    parent = transaction.commit(wait=False).epoch
            stored = store.statistics().bytes_stored - before.bytes_stored
            log = store.core.log
            used = (log.position - log.segment_start(log.segment_of(log.position))) + (
                len(log.epochs) - len(log.free) - 1
            ) * log.segment_bytes
        rows.append(
            (
                f"bytes stored for 100 deltas of {PAGES} pages {what}",
                f"{stored / MIB:.1f} MiB ({stored / alone:.3f} ×)",
                f"lz4 of the pages {alone / MIB:.1f} MiB",
                "≤ 1.15 ×",
                stored <= 1.15 * alone and used > 0,
            )
        )
    return rows


def row_reclaim(bench: Bench) -> Row:
    path, fresh = bench.directory / "grown.store", bench.directory / "fresh.store"
    ObjectStore.create(path)
    size = bench.size // 8
    with ObjectStore.open(path, background=False) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.write(1, 0, bench.random_bytes(size))
            parent = transaction.commit().epoch
        count = 100 if bench.quick else 1000
        for _ in range(count):
            numbers = np.sort(bench.chance.choice(size // PAGE_BYTES, PAGES, replace=False))
            with store.begin(1, parent=parent) as transaction:
                transaction.write_pages(1, numbers, bench.random_bytes(PAGES * PAGE_BYTES))
                parent = transaction.commit(wait=False).epoch
        store.sync()
        before = store.statistics().allocated_bytes
        store.retain(1, count // 10)
        began = time.perf_counter()
        store.collect()
        seconds = time.perf_counter() - began
    after = path.stat().st_blocks * 512
    copy(path, fresh)
    least = fresh.stat().st_blocks * 512
    path.unlink()
    fresh.unlink()
    return (
        "file after deleting 90 % of the generations",
        f"{after / MIB:.0f} MiB of {before / MIB:.0f} in {seconds:.1f} s ({after / least:.2f} ×)",
        f"fresh copy {least / MIB:.0f} MiB",
        "≤ 1.25 ×",
        after <= 1.25 * least,
    )


def row_collect(bench: Bench) -> Row:
    """Commits a second with and without collection beside them, in turns."""
    size, rounds, most = bench.size // 4, 3 if bench.quick else 8, 150
    rates: dict[bool, list[float]] = {False: [], True: []}
    with bench.store() as (store, _):
        for oid in (1, 2):
            store.create_partition(oid)
        with store.begin(1) as transaction:
            transaction.write(1, 0, bench.random_bytes(size))
            parent = transaction.commit().epoch
        for _ in range(rounds):
            for _ in range(2):
                with store.begin(2) as transaction:
                    transaction.write(1, 0, bench.random_bytes(size // 4))
                    newest = transaction.commit().epoch
            for collecting in (False, True):
                counts = store.core.counts
                done = counts.collections
                if collecting:
                    store.delete_generation(2, newest - 1)
                    store.retain(1, 20)
                began, number = time.perf_counter(), 0
                while number < most and counts.collections == done:
                    numbers = np.sort(bench.chance.choice(size // PAGE_BYTES, PAGES, replace=False))
                    with store.begin(1, parent=parent) as transaction:
                        transaction.write_pages(1, numbers, bench.random_bytes(PAGES * PAGE_BYTES))
                        parent = transaction.commit().epoch
                    number += 1
                rates[collecting].append(number / (time.perf_counter() - began))
            store.collect()
        moved = store.statistics().bytes_moved
    quiet, busy = (statistics.median(rates[collecting]) for collecting in (False, True))
    loss = statistics.median(1 - b / q for q, b in zip(rates[False], rates[True], strict=True))
    return (
        f"commits while collection runs, {moved / MIB:.0f} MiB moved, {rounds} turns",
        f"{busy:.0f}/s ({loss:+.0%} lost)",
        f"without {quiet:.0f}/s",
        "≤ 25 % lost",
        loss <= 0.25,
    )


ROWS: dict[str, Callable[[Bench], Row | list[Row]]] = {
    "stream": row_stream,
    "heap": row_heap,
    "commit": row_commit,
    "read": row_read,
    "open": row_open,
    "bytes": row_bytes,
    "reclaim": row_reclaim,
    "collect": row_collect,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("rows", nargs="*", choices=[[], *ROWS], metavar="ROW")
    parser.add_argument("--directory", type=Path)
    parser.add_argument("--quick", action="store_true", help="an eighth of the size")
    arguments = parser.parse_args()
    print(
        "| work | measured | its limit, same run | bar | met |\n|---|---|---|---|---|", flush=True
    )
    met = True
    with tempfile.TemporaryDirectory(prefix="slos-figures-", dir=arguments.directory) as name:
        for row in arguments.rows or ROWS:
            found = ROWS[row](Bench(Path(name), quick=arguments.quick))
            for work, ours, limit, bar, good in found if isinstance(found, list) else [found]:
                print(
                    f"| {work} | {ours} | {limit} | {bar} | {'yes' if good else 'no'} |", flush=True
                )
                met = met and good
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
