"""Random operations on `files/` and on a twin directory, for hours: `python -m … DIRECTORY COUNT SEED`.

DIRECTORY, on the machine's own file system, takes the store, the mount and the twin. What test_twin
does by hypothesis, one at a time, is done here by the hundred thousand: each outcome is compared,
the whole trees every thousand operations. Among the operations: a snapshot, a rollback, a remount,
and SIGKILL of the daemon after an fsync.
"""

import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.mounts import REAL, Mounted, has_ended, mounting, wait_until
from tests.slfs.files.digest import digest

NAMES = [f"{parent}{name}" for parent in ("", "d/", "e/", "d/e/") for name in "abcde"]
RARE_EVERY = 2_000
COMPARED_EVERY = 1_000
Outcome = Any


class Exerciser:
    """Two trees, and one source of chance."""

    def __init__(self, mounted: Mounted, twin: Path, seed: int) -> None:
        self.mounted = mounted
        self.partition = mounted.partition(1, create=True)
        self.files, self.twin = self.partition / "files", twin
        self.saved = twin.with_name("saved")
        self.chance = random.Random(seed)
        self.bytes = random.Random(seed).randbytes(1 << 17)
        self.member = self.new_member()
        self.epoch = self.rollbacks = 0
        self.count = 0
        self.operations: list[Callable[[], None]] = [
            *[self.write] * 6,
            *[self.read] * 6,
            *[self.truncate] * 2,
            *[self.write_mapped] * 2,
            *[self.rename, self.link, self.symlink, self.unlink] * 1,
            *[self.make_directory, self.remove_directory, self.chmod, self.list] * 1,
        ]

    def new_member(self) -> int:
        started = subprocess.Popen(["sleep", "infinity"])
        (self.partition / "attach").write_text(str(started.pid))
        return started.pid

    def end_member(self) -> None:
        """Kill it, whether it is this program's child or what a restore made of it."""
        with suppress(ProcessLookupError):
            os.kill(self.member, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.member, 0)
        wait_until(lambda: has_ended(self.member))

    def name(self) -> str:
        return self.chance.choice(NAMES)

    def offset(self) -> int:
        if self.chance.random() < 0.2:
            return self.chance.choice((0, 4095, 4096, 16383, 16384, 262143, 262144, 1 << 33))
        return self.chance.randrange(400_000)

    def both(self, call: Callable[[str], Outcome], *words: object) -> None:
        outcomes = []
        for root in (self.twin, self.files):
            try:
                outcomes.append(call(f"{root}/"))
            except OSError as error:
                outcomes.append(errno.errorcode[error.errno or 0])
        same = outcomes[0] == outcomes[1]
        assert same, (self.count, call, words, str(outcomes)[:300])

    def write(self) -> None:
        name, offset, start = self.name(), self.offset(), self.chance.randrange(1 << 16)
        data = self.bytes[start : start + self.chance.choice((1, 100, 4096, 10_000, 50_000))]
        way = self.chance.choice((0, 0, os.O_APPEND, os.O_TRUNC))

        def call(root: str) -> int:
            fd = os.open(root + name, os.O_CREAT | os.O_WRONLY | way, 0o644)
            try:
                return os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self.both(call, "write", name, offset, len(data), way)

    def read(self) -> None:
        name, offset = self.name(), self.offset()
        size = self.chance.choice((1, 4096, 10_000, 300_000))

        def call(root: str) -> bytes:
            fd = os.open(root + name, os.O_RDONLY)
            try:
                return os.pread(fd, size, offset)
            finally:
                os.close(fd)

        self.both(call, "read", name, offset, size)

    def write_mapped(self) -> None:
        name, place, value = self.name(), self.chance.randrange(1 << 30), self.chance.randrange(256)

        def call(root: str) -> int:
            with open(root + name, "r+b", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                if 0 < size < 1 << 20:
                    with mmap.mmap(file.fileno(), size) as shared:
                        shared[place % size] = value
                return size

        self.both(call, "mapped", name, place, value)

    def truncate(self) -> None:
        name, size = self.name(), self.offset()
        self.both(lambda root: os.truncate(root + name, size), "truncate", name, size)

    def rename(self) -> None:
        old, new = self.name(), self.name()
        self.both(lambda root: os.rename(root + old, root + new), "rename", old, new)

    def link(self) -> None:
        old, new = self.name(), self.name()
        self.both(lambda root: os.link(root + old, root + new, follow_symlinks=False), "link")

    def symlink(self) -> None:
        leads_to, name = os.path.basename(self.name()), self.name()
        self.both(lambda root: os.symlink(leads_to, root + name), "symlink", leads_to, name)

    def unlink(self) -> None:
        name = self.name()
        self.both(lambda root: os.unlink(root + name), "unlink", name)

    def make_directory(self) -> None:
        name = self.name()
        self.both(lambda root: os.mkdir(root + name), "mkdir", name)

    def remove_directory(self) -> None:
        name = self.name()
        self.both(lambda root: os.rmdir(root + name), "rmdir", name)

    def chmod(self) -> None:
        name, mode = self.name(), self.chance.choice((0o600, 0o644, 0o4755))
        self.both(lambda root: os.chmod(root + name, mode), "chmod", name, mode)

    def list(self) -> None:
        name = self.chance.choice(("d", "e", "d/e", ""))
        self.both(lambda root: sorted(os.listdir(root + name)), "list", name)

    # --- rare ones ---

    def compare(self) -> None:
        here, there = shapes(self.files), shapes(self.twin)
        different = sorted(name for name in here | there if here.get(name) != there.get(name))
        assert not different, (
            self.count,
            [(one, here.get(one), there.get(one)) for one in different],
        )

    def snapshot(self) -> None:
        if not (self.partition / "attach").read_text():  # a daemon that ended let it go
            self.end_member()
            self.member = self.new_member()
        # not Path.touch: it passes over errors of utime(2)
        (self.partition / "checkpoint").write_text("full")
        self.epoch = int((self.partition / "checkpoint").read_text())
        shutil.rmtree(self.saved, ignore_errors=True)
        copy(self.twin, self.saved)

    def roll_back(self) -> None:
        if not self.epoch:
            self.snapshot()
            return
        self.end_member()
        try:
            (self.partition / "restore").write_text(f"{self.epoch} daemon")
        except FileExistsError:  # the number is another's by now, and nothing has changed
            self.compare()
            self.epoch = 0
            self.snapshot()
            return
        self.member = int((self.partition / "restore").read_text().split()[1])
        self.rollbacks += 1
        shutil.rmtree(self.twin)
        copy(self.saved, self.twin)
        self.compare()

    def remount(self) -> None:
        self.mounted.unmount()
        self.mounted.mount()

    def kill(self) -> None:
        fd = os.open(self.files, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
        os.kill(self.mounted.daemon, signal.SIGKILL)
        self.mounted.wait_ended()
        self.mounted.mount()

    def run(self, count: int) -> None:
        started = time.monotonic()
        rare = (self.snapshot, self.roll_back, self.remount, self.kill)
        for self.count in range(1, count + 1):
            self.chance.choice(self.operations)()
            if self.count % COMPARED_EVERY == 0:
                self.compare()
            if self.count % RARE_EVERY == 0:
                event = self.chance.choice(rare)
                event()
                rate = self.count / (time.monotonic() - started)
                print(
                    f"{self.count} operations, {rate:.0f} a second; {event.__name__}, "
                    f"snapshot {self.epoch}, {self.rollbacks} rollbacks",
                    flush=True,
                )


def copy(source: Path, target: Path) -> None:
    """With links, hard ones too, and holes."""
    subprocess.run(["cp", "-a", "--sparse=always", str(source), str(target)], check=True)


def shapes(root: Path) -> dict[str, tuple[object, ...]]:
    """A tree without its times and the sizes of directories."""
    found = {}
    for name, (mode, links, uid, gid, _, *rest) in digest(root, most_bytes=1 << 20).items():
        is_directory = str(mode).startswith("0o4")
        found[name] = (mode, uid, gid, *(() if is_directory else (links, *rest)))
    return found


def main(directory: Path, count: int, seed: int) -> None:
    twin = directory / "twin"
    twin.mkdir()
    with mounting(directory, REAL) as make:
        exerciser = Exerciser(make().mount(), twin, seed)
        try:
            exerciser.run(count)
        finally:
            exerciser.end_member()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
