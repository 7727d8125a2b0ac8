"""A mount with 10,000 generations, 1,000 partitions and 1,000,000 files: listing times and the daemon's memory.

    python benchmarks/scale.py [--generations N] [--partitions N] [--files N]

Stores are made directly, then mounted. For each listing: the time to the first entry, to all of them (`ls -U`), and
with stat(2) of each (`ls -lU`); then the memory that is the daemon's own. Prints markdown. Run as root on an idle
machine.
"""

import argparse
import os
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from jobs import machine, resident_bytes

from slfs.files.snapshot import LiveFiles
from slos.objstore import ObjectStore
from sls.image import MANIFEST_OBJECT, Image, encode

FLUSHED = 50_000
IN_A_DIRECTORY = 500
EMPTY = Image(time_ns=0, boot_id="", kernel="", processes=(), files=())


# --- making stores ----------------------------------------------------------------------------


def make_generations(store: ObjectStore, count: int) -> None:
    """Deltas of four pages."""
    store.create_partition(1)
    image, page_numbers = encode(EMPTY), np.arange(4, dtype=np.uint64)
    parent = None
    for number in range(count):
        with store.begin(1, parent=parent) as transaction:
            transaction.put(MANIFEST_OBJECT, image)
            data = number.to_bytes(4096, "little") * 4
            transaction.write_pages(8, page_numbers + np.uint64(number % 64), data)
            parent = transaction.commit(wait=False).epoch


def make_partitions(store: ObjectStore, count: int) -> None:
    """Each with a generation."""
    for oid in range(1, count + 1):
        store.create_partition(oid)
        with store.begin(oid) as transaction:
            transaction.put(MANIFEST_OBJECT, encode(EMPTY))
            transaction.commit(wait=False)


def make_files(store: ObjectStore, count: int) -> None:
    """Half of them in one directory, half in directories of IN_A_DIRECTORY."""
    store.create_partition(1)
    files = LiveFiles(store, 1, (0, 0), list)
    tree = files.tree
    flat = tree.make(tree.root, b"flat", stat.S_IFDIR | 0o755, (0, 0)).ino
    deep = tree.make(tree.root, b"deep", stat.S_IFDIR | 0o755, (0, 0)).ino
    directory = deep
    for number in range(count // 2):
        if number % IN_A_DIRECTORY == 0:
            name = b"d%d" % (number // IN_A_DIRECTORY)
            directory = tree.make(deep, name, stat.S_IFDIR | 0o755, (0, 0)).ino
        for place in (flat, directory):
            inode = tree.make(place, b"file%d" % number, stat.S_IFREG | 0o644, (0, 0))
            tree.write(inode, 0, b"contents")
        if number % FLUSHED == 0:
            files.flush()
    files.flush(wait=True)


# --- measuring --------------------------------------------------------------------------------


@contextmanager
def mounted(make: Callable[[ObjectStore, int], None], count: int) -> Iterator[Path]:
    """A store made by `make`, mounted; tells how long mounting took and what the daemon holds then."""
    with tempfile.TemporaryDirectory() as name:
        store, mountpoint = Path(name) / "store", Path(name) / "mnt"
        mountpoint.mkdir()
        ObjectStore.create(store)
        with ObjectStore.open(store) as opened:
            make(opened, count)
        seconds, _ = timed(
            lambda: subprocess.run([sys.executable, "-m", "slfs", store, mountpoint], check=True)
        )
        try:
            print(f"| mount | {seconds:.2f} s | | {memory(mountpoint)} |")
            yield mountpoint / "partitions"
        finally:
            subprocess.run(["umount", mountpoint], check=True)


def timed(action: Callable[[], object]) -> tuple[float, object]:
    """Seconds, and what came of it."""
    begin = time.perf_counter()
    outcome = action()
    return time.perf_counter() - begin, outcome


def memory(mountpoint: Path) -> str:
    """What the daemon holds."""
    status = (mountpoint / "status").read_text()
    pid = int(status.partition('"pid":')[2].partition(",")[0])
    return f"{resident_bytes(pid) >> 20} MiB"


def first_entry(directory: Path) -> None:
    """Until the first name is there."""
    with os.scandir(directory) as entries:
        next(entries)


def run(*command: object) -> None:
    """A command whose output nobody reads."""
    subprocess.run([*map(str, command)], check=True, stdout=subprocess.DEVNULL)


def list_all(directory: Path, what: str, *more: tuple[str, tuple[object, ...]]) -> None:
    """A row for each way to list it."""
    mountpoint = next(one for one in directory.parents if one.name == "mnt")
    first, _ = timed(lambda: first_entry(directory))
    for name, command in (
        ("`ls -U`", ("ls", "-U", directory)),
        ("`ls -lU`", ("ls", "-lU", directory)),
        ("`ls -lU` again", ("ls", "-lU", directory)),
        *more,
    ):
        seconds, _ = timed(lambda command=command: run(*command))  # type: ignore[misc]
        print(f"| {what}: {name} | {seconds:.2f} s | {first * 1e3:.1f} ms | {memory(mountpoint)} |")
        sys.stdout.flush()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--generations", type=int, default=10_000)
    parser.add_argument("--partitions", type=int, default=1000)
    parser.add_argument("--files", type=int, default=1_000_000)
    counts = parser.parse_args()
    print(f"{machine()}\n\n| | time | first entry | daemon |\n|---|---|---|---|")
    with mounted(make_generations, counts.generations) as partitions:
        place = partitions / "1" / "generations"
        last = place / str(counts.generations)
        list_all(
            place, f"{counts.generations} generations",
            ("`diff` of the newest", ("cat", last / "diff")),
            ("`info` of the newest", ("cat", last / "info")),
        )  # fmt: skip
    with mounted(make_partitions, counts.partitions) as partitions:
        os.environ["SLFS_MOUNT"] = str(partitions.parent)
        slsctl = Path(__file__).parents[1] / "tools" / "slsctl"
        list_all(
            partitions, f"{counts.partitions} partitions",
            ("`slsctl ps`", (slsctl, "ps")), ("`metrics`", ("cat", partitions.parent / "metrics")),
        )  # fmt: skip
    with mounted(make_files, counts.files) as partitions:
        files = partitions / "1" / "files"
        list_all(files / "flat", f"{counts.files // 2} files in one directory")
        list_all(files / "deep", f"directories of {IN_A_DIRECTORY}", ("`find`", ("find", files)))


if __name__ == "__main__":
    main()
