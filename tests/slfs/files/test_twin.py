"""Random operations on `files/` and on a twin directory: the same outcomes, the same trees. As fsx does.

`SLFS_TWIN_EXAMPLES` runs more of them by hand. A remount, a killed daemon after an fsync, and a
checkpoint with a rollback are operations too.
"""

import errno
import mmap
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test

from tests.mounts import FAKE, Mounted, mounting
from tests.slfs.files.digest import digest

pytestmark = [pytest.mark.root, pytest.mark.fuse]

EXAMPLES = int(os.environ.get("SLFS_TWIN_EXAMPLES", "6"))
NAMES = st.sampled_from(["a", "b", "c", "d", "d/a", "d/b", "e", "e/a", "d/e", "d/e/a"])
OFFSETS = st.one_of(
    st.integers(0, 70_000), st.sampled_from([0, 4095, 4096, 16383, 16384, 16385, 1 << 33])
)
SIZES = st.one_of(st.integers(0, 9000), st.sampled_from([1, 4096, 8192, 16384, 40000]))
_mounted: list[Mounted] = []


def pattern(seed: int, length: int) -> bytes:
    """Bytes that tell where they come from."""
    return bytes((seed + index * 7) % 251 for index in range(min(length, 251))) * (
        length // 251 + 1
    )


class Twins(RuleBasedStateMachine):
    """One directory in files/ and its twin; each rule does one thing to both."""

    def __init__(self) -> None:
        super().__init__()
        self.mounted = _mounted[0]
        self.files = self.mounted.partition(1) / "files"
        self.twin_holder = TemporaryDirectory(prefix="slfs-twin-")
        self.twin = Path(self.twin_holder.name)

    def teardown(self) -> None:
        self.twin_holder.cleanup()
        for path in self.files.iterdir():
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()

    def both(self, call: Callable[[Path], Any]) -> None:
        """The same came of it in both places."""
        outcomes = []
        for root in (self.twin, self.files):
            try:
                outcomes.append(call(root))
            except OSError as error:
                outcomes.append(errno.errorcode[error.errno or 0])
        assert outcomes[0] == outcomes[1]

    @rule(name=NAMES, offset=OFFSETS, size=SIZES, seed=st.integers(0, 250))
    def write(self, name: str, offset: int, size: int, seed: int) -> None:
        data = pattern(seed, size)[:size]

        def call(root: Path) -> int:
            fd = os.open(root / name, os.O_CREAT | os.O_WRONLY, 0o644)
            try:
                return os.pwrite(fd, data, offset)
            finally:
                os.close(fd)

        self.both(call)

    @rule(name=NAMES, offset=OFFSETS, size=SIZES)
    def read(self, name: str, offset: int, size: int) -> None:
        def call(root: Path) -> bytes:
            fd = os.open(root / name, os.O_RDONLY)
            try:
                return os.pread(fd, size, offset)
            finally:
                os.close(fd)

        self.both(call)

    @rule(name=NAMES, offset=st.integers(0, 60_000), seed=st.integers(0, 250))
    def write_mapped(self, name: str, offset: int, seed: int) -> None:
        def call(root: Path) -> None:
            with (root / name).open("r+b") as file:
                size = os.fstat(file.fileno()).st_size
                if 0 < size < 1 << 20:
                    with mmap.mmap(file.fileno(), size) as shared:
                        shared[offset % size] = seed

        self.both(call)

    @rule(name=NAMES, size=OFFSETS)
    def truncate(self, name: str, size: int) -> None:
        self.both(lambda root: os.truncate(root / name, size))

    @rule(name=NAMES)
    def make_directory(self, name: str) -> None:
        self.both(lambda root: os.mkdir(root / name))

    @rule(name=NAMES)
    def remove_directory(self, name: str) -> None:
        self.both(lambda root: os.rmdir(root / name))

    @rule(name=NAMES)
    def unlink(self, name: str) -> None:
        self.both(lambda root: os.unlink(root / name))

    @rule(old=NAMES, new=NAMES)
    def rename(self, old: str, new: str) -> None:
        self.both(lambda root: os.rename(root / old, root / new))

    @rule(old=NAMES, new=NAMES)
    def link(self, old: str, new: str) -> None:
        self.both(lambda root: os.link(root / old, root / new, follow_symlinks=False))

    @rule(leads_to=NAMES, name=NAMES)
    def symlink(self, leads_to: str, name: str) -> None:
        self.both(lambda root: os.symlink(leads_to, root / name))

    @rule(name=NAMES, mode=st.sampled_from([0o600, 0o644, 0o755, 0o4711]))
    def chmod(self, name: str, mode: int) -> None:
        self.both(lambda root: os.chmod(root / name, mode))

    @rule()
    def sync(self) -> None:
        fd = os.open(self.files, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)

    @invariant()
    def trees_are_equal(self) -> None:
        assert shapes(self.files) == shapes(self.twin)


class Remounted(Twins):
    """With ends of the daemon, which are slow."""

    @rule()
    def remount(self) -> None:
        self.mounted.unmount()
        self.mounted.mount()

    @rule()
    def kill(self) -> None:
        self.sync()
        os.kill(self.mounted.daemon, 9)
        self.mounted.wait_ended()
        self.mounted.mount()


def shapes(root: Path) -> dict[str, tuple[object, ...]]:
    """A tree without its times, and without the contents of the largest files."""
    found = {}
    for name, (mode, links, uid, gid, _, *rest) in digest_small(root).items():
        is_directory = str(mode).startswith("0o4")
        found[name] = (mode, uid, gid, *(() if is_directory else (links, *rest)))
    return found


def digest_small(root: Path) -> dict[str, tuple[object, ...]]:
    return digest(root, most_bytes=1 << 20)


@pytest.fixture
def mounted() -> Iterator[Mounted]:
    with TemporaryDirectory(prefix="slfs-twins-") as name, mounting(Path(name), FAKE) as make:
        made = make().mount()
        made.partition(1, create=True)
        _mounted[:] = [made]
        yield made
        _mounted.clear()


def run(machine: type[Twins], examples: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            derandomize=EXAMPLES == 6,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_random_operations_are_those_of_a_twin(mounted: Mounted) -> None:
    run(Twins, EXAMPLES, 50)


def test_random_operations_with_remounts_and_kills(mounted: Mounted) -> None:
    run(Remounted, max(1, EXAMPLES // 6), 20)
