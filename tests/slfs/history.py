"""A real partition with a history to look into: `tests/programs/threads.c`, two generations of it, and what it was.

1  as it was when it was ready        2  after one step
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.mounts import REAL, Mounted, mounting, wait_until

PROGRAM = Path(__file__).parents[1] / "programs" / "threads.c"
PAUSE = "34 "  # the number of pause(2), as /proc/<pid>/syscall begins


@dataclass(frozen=True)
class History:
    """The partition, its one member, and text of /proc when generation 1 was taken."""

    mounted: Mounted
    pid: int
    binary: Path
    data: Path
    maps: str
    memory: dict[int, bytes]  # start of each readable mapping → its first page

    @property
    def partition(self) -> Path:
        return self.mounted.partition(1)

    def generation(self, epoch: int) -> Path:
        return self.partition / "generations" / str(epoch)

    def process(self, epoch: int) -> Path:
        return self.generation(epoch) / "processes" / str(self.pid)


def take(partition: Path) -> int:
    """A generation of the members; its number."""
    try:  # not Path.touch: it passes over errors of utime(2)
        (partition / "checkpoint").write_text("1")
    except OSError as error:
        raise AssertionError((partition / "log").read_text()) from error
    return int((partition / "checkpoint").read_text())


def _are_waiting(pid: int) -> bool:
    tasks = list(Path(f"/proc/{pid}/task").iterdir())
    return len(tasks) == 4 and all((one / "syscall").read_text().startswith(PAUSE) for one in tasks)


def _first_pages(pid: int, maps: str) -> dict[int, bytes]:
    found = {}
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps.splitlines():
            start = int(line.split("-")[0], 16)
            if " r" in line and not line.endswith(("[vvar]", "[vvar_vclock]", "[vsyscall]")):
                found[start] = os.pread(memory.fileno(), 4096, start)
    return found


@contextmanager
def looked_into() -> Iterator[History]:
    """Mount where every user may come, run the program, take two generations; it lives on."""
    with TemporaryDirectory(prefix="slfs-test-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        binary, data = directory / "threads", directory / "data"
        flags = ("-O0", "-g", "-Wall", "-Werror", "-pthread")
        subprocess.run(["gcc", *flags, "-o", binary, PROGRAM], check=True)
        with mounting(directory, REAL) as make:
            mounted = make().mount()
            with subprocess.Popen(
                [binary, data], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
            ) as program:
                try:
                    yield _take_two(mounted, program, binary, data)
                finally:
                    program.kill()


def _take_two(
    mounted: Mounted, program: "subprocess.Popen[str]", binary: Path, data: Path
) -> History:
    pid = program.pid
    assert program.stdout is not None
    assert program.stdout.readline() == "ready\n"
    wait_until(lambda: _are_waiting(pid))
    maps = Path(f"/proc/{pid}/maps").read_text()
    memory = _first_pages(pid, maps)
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(f"{pid}\n")
    assert take(partition) == 1
    program.send_signal(signal.SIGUSR1)
    assert program.stdout.readline() == "stepped\n"
    wait_until(lambda: _are_waiting(pid))
    assert take(partition) == 2
    return History(mounted, pid, binary, data, maps, memory)
