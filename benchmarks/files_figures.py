"""Figures of files/, each beside a minimal file system in memory on the same binding.

    python benchmarks/files_figures.py [--store DIR] [--rounds N] [--quick] [ROW …]

Prints a markdown table. Three mounts live side by side: `floor` (benchmarks/programs/floor_fs.py),
`floor+xattr`, which answers the kernel's questions for extended attributes, and files/ of a
partition. Each round does one row on all of them in turn; the table shows the median of the rounds
and the worst one. The kernel's caches are dropped before a read, so that the program is measured;
the warm rows are what it leaves to the kernel. Run it as root on an idle machine.
"""

import argparse
import contextlib
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIB = 1 << 20
MOUNT_SECONDS = 30.0
STEP_BYTES = 4099
NOISE = memoryview(random.Random(1).randbytes(2 * MIB))
FLOOR, ANSWERING, FILES = "floor", "floor+xattr", "files/"


class Place:
    """A directory of one of the mounts, empty at each round; how much a row does there."""

    def __init__(self, directory: Path, count: int, size_bytes: int) -> None:
        self.directory = directory
        self.count = count
        self.size_bytes = size_bytes

    def path(self, number: int) -> str:
        return f"{self.directory}/f{number}"

    def fill(self, path: str) -> None:
        """A file of the row's size; no two of its pages are the same, and none can be compressed."""
        with open(path, "wb", buffering=0) as file:
            for number in range(self.size_bytes // MIB):
                file.write(NOISE[number * STEP_BYTES : number * STEP_BYTES + MIB])

    def make_files(self) -> None:
        for number in range(self.count):
            os.close(os.open(self.path(number), os.O_CREAT | os.O_WRONLY))

    def remove_files(self) -> None:
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)


Rate = float
Row = Callable[[Place], Rate]
rows: dict[str, Row] = {}


def row(unit: str) -> Callable[[Row], Row]:
    def register(function: Row) -> Row:
        rows[f"{function.__name__.replace('_', ' ')}, {unit}"] = function
        return function

    return register


@contextlib.contextmanager
def timed(seconds: list[float]) -> Iterator[None]:
    start = time.perf_counter()
    yield
    seconds.append(time.perf_counter() - start)


def rate(amount: float, work: Callable[[], object]) -> Rate:
    seconds: list[float] = []
    with timed(seconds):
        work()
    return amount / seconds[0]


def drop_caches() -> None:
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


@row("a second")
def creates(place: Place) -> Rate:
    return rate(place.count, place.make_files)


@row("a second")
def unlinks(place: Place) -> Rate:
    place.make_files()

    def work() -> None:
        for number in range(place.count):
            os.unlink(place.path(number))

    return rate(place.count, work)


@row("a second")
def renames(place: Place) -> Rate:
    place.make_files()

    def work() -> None:
        for number in range(place.count):
            os.rename(place.path(number), f"{place.directory}/r{number}")

    return rate(place.count, work)


@row("a second")
def open_write_close(place: Place) -> Rate:
    place.make_files()

    def work() -> None:
        for number in range(place.count):
            fd = os.open(place.path(number), os.O_WRONLY)
            os.write(fd, b"x" * 100)
            os.close(fd)

    return rate(place.count, work)


@row("a second")
def stats_warm(place: Place) -> Rate:
    place.make_files()
    for number in range(place.count):
        os.stat(place.path(number))

    def work() -> None:
        for number in range(place.count):
            os.stat(place.path(number))

    return rate(place.count, work)


@row("entries a second")
def readdir(place: Place) -> Rate:
    place.make_files()
    return rate(place.count * 5, lambda: [os.listdir(place.directory) for _ in range(5)])


@row("MiB/s")
def sequential_write(place: Place) -> Rate:
    return rate(place.size_bytes / MIB, lambda: place.fill(place.path(0)))


def read_all(path: str) -> None:
    with open(path, "rb", buffering=0) as file:
        while file.read(MIB):
            pass


def settle(path: str, advice: int = os.POSIX_FADV_NORMAL) -> None:
    """What a row has prepared is written, so that it is not measured."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, advice)
    finally:
        os.close(fd)


@row("MiB/s")
def sequential_read(place: Place) -> Rate:
    """The kernel keeps none of the file: all of it is asked of the program."""
    place.fill(place.path(0))
    settle(place.path(0), os.POSIX_FADV_DONTNEED)
    return rate(place.size_bytes / MIB, lambda: read_all(place.path(0)))


@row("MiB/s")
def sequential_read_from_disk(place: Place) -> Rate:
    """The kernel keeps nothing of the store either. The floor has no disk."""
    place.fill(place.path(0))
    settle(place.path(0))
    drop_caches()
    return rate(place.size_bytes / MIB, lambda: read_all(place.path(0)))


@row("MiB/s")
def warm_read(place: Place) -> Rate:
    place.fill(place.path(0))
    settle(place.path(0))
    read_all(place.path(0))
    return rate(place.size_bytes / MIB, lambda: read_all(place.path(0)))


def write_pieces(place: Place, flags: int) -> Rate:
    """4 KiB at places that a seed tells, in a file of the row's size."""
    place.fill(place.path(0))
    settle(place.path(0))
    chance = random.Random(2)
    pages = place.size_bytes // 4096
    offsets = [chance.randrange(pages) * 4096 for _ in range(place.count * 2)]
    data = chance.randbytes(4096)
    fd = os.open(place.path(0), flags)
    try:
        return rate(len(offsets), lambda: [os.pwrite(fd, data, offset) for offset in offsets])
    finally:
        os.close(fd)


@row("a second")
def random_4_KiB_writes(place: Place) -> Rate:  # noqa: N802 - the table's words
    return write_pieces(place, os.O_WRONLY)


@row("a second")
def random_4_KiB_writes_in_a_file_open_for_both(place: Place) -> Rate:  # noqa: N802
    return write_pieces(place, os.O_RDWR)


# --- the mounts ---


def wait_mounted(place: Path) -> None:
    deadline = time.monotonic() + MOUNT_SECONDS
    while not os.path.ismount(place):
        assert time.monotonic() < deadline, f"{place} is not mounted"
        time.sleep(0.01)


@contextlib.contextmanager
def mounted(program: list[str], place: Path) -> Iterator[None]:
    place.mkdir()
    with subprocess.Popen([sys.executable, *program], cwd=ROOT) as daemon:
        try:
            wait_mounted(place)
            yield
        finally:
            subprocess.run(["umount", str(place)], check=True)
            daemon.wait()


@contextlib.contextmanager
def all_places(directory: Path, names: list[str]) -> Iterator[dict[str, Path]]:
    floor = str(ROOT / "benchmarks/programs/floor_fs.py")
    one, two, three = (directory / name for name in ("floor", "answering", "slfs"))
    programs = {
        FLOOR: ([floor, str(one)], one, one),
        ANSWERING: ([floor, str(two), "xattr"], two, two),
        FILES: (
            ["-m", "slfs", str(directory / "a.slos"), str(three), "--foreground"],
            three,
            three / "partitions/1/files",
        ),
    }
    with contextlib.ExitStack() as stack:
        places = {}
        for name in names:
            program, place, within = programs[name]
            stack.enter_context(mounted(program, place))
            if name == FILES:
                (place / "partitions/1").mkdir()
            places[name] = within
        yield places


def measure(row: Row, place: Place) -> Rate:
    place.directory.mkdir()
    try:
        return row(place)
    finally:
        place.remove_files()
        place.directory.rmdir()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", type=Path, help="where the store lies")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", action="append", help="a mount: floor, floor+xattr, files/")
    parser.add_argument("row", nargs="*", help="words of the rows to be measured")
    options = parser.parse_args()
    chosen = {
        name: function
        for name, function in rows.items()
        if not options.row or any(word in name for word in options.row)
    }
    count, size_bytes = (500, 32 * MIB) if options.quick else (2000, 128 * MIB)
    names = options.only or [FLOOR, ANSWERING, FILES]
    with (
        tempfile.TemporaryDirectory(prefix="files-figures-", dir=options.store) as holder,
        all_places(Path(holder), names) as places,
    ):
        print("| | " + " | ".join(names) + " | of floor | of floor+xattr |")
        print("|" + "---|" * (len(names) + 3))
        for name, function in chosen.items():
            found: dict[str, list[Rate]] = {place: [] for place in places}
            for _ in range(options.rounds):
                for place, path in places.items():
                    found[place].append(measure(function, Place(path / "x", count, size_bytes)))
            print(table_row(name, found), flush=True)


def table_row(name: str, found: dict[str, list[Rate]]) -> str:
    middle = {place: statistics.median(rates) for place, rates in found.items()}
    cells = [f"{middle[place]:,.0f} ({min(rates):,.0f})" for place, rates in found.items()]
    shares = [
        f"{middle[FILES] / middle[floor]:.0%}" if {FILES, floor} <= middle.keys() else ""
        for floor in (FLOOR, ANSWERING)
    ]
    return "| " + " | ".join([name, *cells, *shares]) + " |"


if __name__ == "__main__":
    main()
