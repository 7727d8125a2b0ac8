"""The floor of a stop: its system calls, recorded from the tracer at work, made again by a C program.

strace(1) watches a tracer for some stops. What lies between the first call that stops a task and the last that lets one
go is a stop; the one of median length becomes a script for programs/floor.c. The calls that the tracer has its tasks
make are taken from the arenas, which stay in the tasks when the tracer is killed.
"""

import mmap
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import lz4.block
from jobs import PROGRAMS, build

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from slos.core import COMPRESS_THREADS

_LINE = re.compile(r"\d+\s+\d+\.\d+ (\w+)\((.*)\)\s+= (-?\w+)")
_BEGUN = re.compile(r"(\d+)(.*?)\s*<unfinished \.\.\.>$")
_RESUMED = re.compile(r"(\d+)\s+\d+\.\d+ <\.\.\. \w+ resumed>(.*)")
_ARENA = re.compile(r"^([0-9a-f]+)-[0-9a-f]+ r-xs .*\n[0-9a-f]+-([0-9a-f]+) rw-s ", re.M)
_FD = re.compile(r"(\d+)(?:<([^>]*)>)?")
_STOPS = ("PTRACE_SEIZE", "PTRACE_INTERRUPT")
_ENDS = ("PTRACE_DETACH", "PTRACE_CONT")
_FLAGS = {"O_RDONLY": 0, "O_WRONLY": 1, "O_RDWR": 2, "O_DIRECTORY": 0o200000, "O_PATH": 0o10000000}
_STOPS_WANTED = 8
_MOST_S = 10.0
_TABLE = 4096 + 0x100


class Traced(NamedTuple):
    """One system call of the tracer."""

    name: str
    arguments: str
    value: str

    @property
    def request(self) -> str:
        return self.arguments.split(",", 1)[0] if self.name == "ptrace" else ""

    def number(self, position: int) -> int:
        """An argument that is a plain number, or the number of a descriptor."""
        found = re.match(r"\s*(0x[0-9a-f]+|\d+)", self.arguments.split(",")[position])
        return int(found[1], 0) if found else 0


def stop_of(worker: int, pids: Sequence[int], directory: Path) -> list[Traced]:
    """The calls of the median stop of these processes among a few that the tracer makes."""
    tids = {int(task.name) for pid in pids for task in Path(f"/proc/{pid}/task").iterdir()}
    path = directory / "tracer.strace"
    command = ["strace", "-f", "-y", "-s", "64", "-ttt", "-o", str(path), "-p", str(worker)]
    watcher = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + _MOST_S
    while time.monotonic() < deadline:
        time.sleep(0.1)
        if path.exists() and path.read_bytes().count(b" sendmsg(") > _STOPS_WANTED:
            break
    watcher.send_signal(signal.SIGINT)
    watcher.wait()
    stops, calls = [], []
    for line in _whole_lines(path.read_text(errors="replace").splitlines()):
        found = _LINE.match(line)
        if found is None:
            continue
        calls.append(Traced(found[1], found[2], found[3]))
        if found[1] == "sendmsg":
            stops.append(_only_stop(calls, tids))
            calls = []
    whole = sorted((stop for stop in stops[1:] if stop), key=len)
    assert whole, "no stop was seen: does the tracer work?"
    return whole[len(whole) // 2]


def _whole_lines(lines: Sequence[str]) -> Iterator[str]:
    """A call during which another thread made one is told in two lines; here in one, where it ended."""
    begun: dict[str, str] = {}
    for line in lines:
        if found := _BEGUN.match(line):
            begun[found[1]] = line[: found.end(2)]
        elif found := _RESUMED.match(line):
            yield begun.pop(found[1], "") + found[2]
        else:
            yield line


def _only_stop(calls: Sequence[Traced], tids: Container[int]) -> list[Traced]:
    """From the first call that stops one of these threads; before it others may have been (`sls.warm_up`)."""
    starts = [at for at, one in enumerate(calls) if one.request in _STOPS and one.number(1) in tids]
    ends = [at for at, one in enumerate(calls) if one.request in _ENDS]
    return list(calls[starts[0] : ends[-1] + 1]) if starts and ends else []


def arenas(pids: Sequence[int], directory: Path, looks: int = 20) -> list[str]:
    """Script lines for the arena of each process, with the longest table of calls seen in some looks at it."""
    lines = []
    for pid in pids:
        best, bounds = b"", (0, 0)
        for _ in range(looks):
            found = _ARENA.search(Path(f"/proc/{pid}/maps").read_text())
            if found is None:
                continue
            bounds = int(found[1], 16), int(found[2], 16)
            with open(f"/proc/{pid}/mem", "rb") as memory:
                memory.seek(bounds[0])
                best = max(best, memory.read(bounds[1] - bounds[0]), key=_calls_in)
            time.sleep(0.003)
        path = directory / f"arena-{pid}"
        path.write_bytes(best)
        lines.append(f"process {pid} {bounds[0]:x} {bounds[1]:x} {path}")
    return lines


def _calls_in(arena: bytes) -> int:
    count = 0
    while arena[_TABLE + 64 * count :][:8] and arena[_TABLE + 64 * count + 7] < 0x80:
        count += 1
    return count


# --- from strace's words to the script -----------------------------------------------------------------------------

_PTRACE = {
    "PTRACE_SEIZE": "seize", "PTRACE_INTERRUPT": "interrupt", "PTRACE_CONT": "continue",
    "PTRACE_DETACH": "detach", "PTRACE_GETSIGMASK": "getmask", "PTRACE_GET_RSEQ_CONFIGURATION": "rseq",
}  # fmt: skip
_SIMPLE = {  # call → (word, positions of its numbers)
    "close": ("close", (0,)), "read": ("read", (0,)), "getdents64": ("getdents", (0,)), "fstat": ("fstat", (0,)),
    "kcmp": ("kcmp", (0, 1)), "pidfd_open": ("pidfd", (0,)), "get_robust_list": ("robust", (0,)),
    "sched_getaffinity": ("affinity", (0,)), "sched_getattr": ("scheduler", (0,)),
}  # fmt: skip


class _Script:
    """Turns the calls of a stop into lines. Remembers which descriptors the stop has opened itself."""

    def __init__(self) -> None:
        self.before: list[str] = []
        self.lines: list[str] = []
        self._opened: set[int] = set()
        self._scans: dict[int, int] = {}
        self._known: set[int] = set()
        self._copied: set[int] = set()

    def add(self, calls: Sequence[Traced]) -> None:
        for at, one in enumerate(calls):
            self._note_descriptor(one)
            if one.request == "PTRACE_INTERRUPT" and "clock" not in self.lines:
                self.lines.append(
                    "clock"
                )  # here a stop begins; what is read before it is not of it
            self.lines += self._line(one, calls[at + 1 : at + 4])

    def _line(self, one: Traced, following: Sequence[Traced]) -> Iterator[str]:
        if one.name == "ptrace":
            yield self._ptrace(one, following)
        elif one.name in ("wait4", "waitid"):
            if one.value not in ("0", "-1"):
                yield f"wait {one.value}"
        elif one.name in ("rt_sigtimedwait", "restart_syscall"):
            return
        elif one.name in ("openat", "open"):
            yield self._open(one)
        elif one.name in ("readlink", "stat", "lstat", "newfstatat", "statx", "readlinkat"):
            yield self._of_path(one)
        elif one.name == "ioctl" and (
            "0x66, 0x10" in one.arguments or "PAGEMAP_SCAN" in one.arguments
        ):
            yield self._scan(one)
        elif one.name == "process_vm_readv":
            yield from self._read(one)
        elif one.name in ("pread64", "preadv"):
            yield f"pread {one.number(0)} 0"
        elif one.name == "pidfd_getfd":
            self._opened.add(int(one.value.split("<")[0]))
            yield f"getfd {one.value.split('<')[0]} {one.number(0)} {one.number(1)}"
        elif one.name == "lseek":
            yield f"seek {one.number(0)} {one.number(1)} 0"
        elif one.name in _SIMPLE:
            word, positions = _SIMPLE[one.name]
            numbers = [one.number(position) for position in positions]
            if word == "pidfd":
                self._opened.add(int(one.value.split("<")[0]))
                numbers.insert(0, int(one.value.split("<")[0]))
            elif word == "kcmp":
                numbers += [0, *map(int, re.findall(r", (\d+)", one.arguments)[-2:])]
            yield " ".join([word, *map(str, numbers)])
        else:
            yield "other"

    def _ptrace(self, one: Traced, following: Sequence[Traced]) -> str:
        tid = one.number(1)
        runs = any(
            other.request == "PTRACE_CONT" and other.number(1) == tid for other in following[:2]
        )
        if one.request == "PTRACE_GETREGS":
            first = tid not in self._known
            self._known.add(tid)
            return f"getregs {tid} {int(first)}"
        if one.request == "PTRACE_SETREGS":
            return f"{'borrow' if runs else 'giveback'} {tid}"
        if one.request == "PTRACE_SETSIGMASK":
            return f"{'block' if runs else 'unblock'} {tid}"
        if one.request == "PTRACE_SETOPTIONS":
            return f"options {tid} {0x20000E if 'SECCOMP' in one.arguments else 0xE}"
        if one.request in ("PTRACE_GETREGSET", "PTRACE_SETREGSET"):
            return f"regset {tid} {0x202 if 'XSTATE' in one.arguments else 1}"
        if one.request == "PTRACE_PEEKSIGINFO":
            return f"siginfo {tid} {int('SHARED' in one.arguments)}"
        return f"{_PTRACE.get(one.request, 'other')} {tid}"

    def _open(self, one: Traced) -> str:
        path = re.search(r'"([^"]*)"', one.arguments)
        flags = sum(value for name, value in _FLAGS.items() if name in one.arguments)
        fd = int(one.value.split("<")[0])
        if path is None or fd < 0:
            return "other"
        self._opened.add(fd)
        return f"open {fd} {flags} 0 0 0 {path[1]}"

    @staticmethod
    def _of_path(one: Traced) -> str:
        path = re.search(r'"([^"]*)"', one.arguments)
        if path is None or not path[1]:
            return f"fstat {one.number(0)}"
        return f"{'readlink' if 'readlink' in one.name else 'stat'} 0 0 0 0 0 {path[1]}"

    def _scan(self, one: Traced) -> str:
        fd = one.number(0)
        path = _FD.match(one.arguments)
        pid = re.search(r"/proc/(\d+)/", path[2] or "") if path else None
        number = int(pid[1]) if pid else 0
        self._scans[number] = self._scans.get(number, -1) + 1
        return f"scan {fd} {number} {self._scans[number]}"

    def _read(self, one: Traced) -> Iterator[str]:
        """A small read of a known place, or the copy of all dirty pages, however many calls that takes."""
        pid = one.number(0)
        found = re.search(
            r"\], 1, \[\{iov_base=(0x[0-9a-f]+), iov_len=(\d+)\}\], 1, ", one.arguments
        )
        if found is not None and int(found[2]) < 4096:
            yield f"peek {pid} {int(found[1], 16)} {found[2]}"
        elif pid not in self._copied:
            self._copied.add(pid)
            yield f"copy {pid}"

    def _note_descriptor(self, one: Traced) -> None:
        """What was open before the stop is opened before the first round."""
        if one.name in ("openat", "newfstatat", "ptrace", "readlinkat"):
            return
        found = _FD.match(one.arguments)
        if found is None or found[2] is None or int(found[1]) in self._opened:
            return
        fd, path = int(found[1]), found[2]
        self._opened.add(fd)
        if path.startswith("/"):
            flags = 2 if path.endswith("/mem") else 0
            self.before.append(f"before-open {fd} {flags} 0 0 0 {path}")
        elif path.startswith("pid:"):
            self.before.append(f"before-pidfd {fd} {path[4:]}")


def measure(
    worker: int, pids: Sequence[int], directory: Path, period_ms: int, rounds: int = 200
) -> list[float]:
    """Milliseconds of each round of the floor, on processes that this tracer keeps; the tracer is killed for it."""
    return run(record(worker, pids, directory), directory, period_ms, rounds)


def record(worker: int, pids: Sequence[int], directory: Path) -> Path:
    """The script of a stop of these processes; their tracer, which is watched for it, is killed."""
    stop = stop_of(worker, pids, directory)
    lines = arenas(pids, directory)
    os.kill(worker, signal.SIGKILL)
    while Path(f"/proc/{worker}/fd").exists() and list(Path(f"/proc/{worker}/fd").iterdir()):
        time.sleep(0.01)
    time.sleep(0.1)
    for pid in pids:
        lines += [
            f"thread {pid} {tid}" for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task")))
        ]
    script = _Script()
    script.add(stop)
    path = directory / "floor.script"
    path.write_text("\n".join([*lines, *script.before, *script.lines]) + "\n")
    return path


def run(
    script: Path, directory: Path, period_ms: int, rounds: int = 200, *, is_first: bool = False
) -> list[float]:
    """Milliseconds of each round. `is_first`: it runs before all ordinary programs, as the tracer does in a stop."""
    command = [
        *(["chrt", "--rr", "1"] if is_first else []),
        str(build(PROGRAMS / "floor.c", directory)),
        str(script),
        str(rounds),
        str(period_ms * 1000),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"floor: {done.stderr or done.returncode}; {script}")
    return [int(line) / 1e6 for line in done.stdout.split()]


# --- a first full checkpoint ----------------------------------------------------------------------------------------


def copy_compress_write(pid: int, directory: Path) -> tuple[float, float, float]:
    """Seconds to copy the memory of a process, to compress it as the store does, to write that and have it durable."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    areas = re.findall(
        r"^([0-9a-f]+)-([0-9a-f]+) rw-p ", Path(f"/proc/{pid}/maps").read_text(), re.M
    )
    spans = [(int(start, 16), int(end, 16)) for start, end in areas]
    buffer = mmap.mmap(
        -1, sum(end - start for start, end in spans), flags=mmap.MAP_SHARED | mmap.MAP_POPULATE
    )
    view = memoryview(buffer)
    began, at = time.perf_counter(), 0
    for start, end in spans:
        for piece in range(start, end, 16 << 20):
            at += os.preadv(memory, [view[at : at + min(16 << 20, end - piece)]], piece)
    copied = time.perf_counter()
    with ThreadPoolExecutor(COMPRESS_THREADS) as pool:
        parts = list(
            pool.map(
                lambda start: _compress(view[start : start + (1 << 20)]), range(0, at, 1 << 20)
            )
        )
    compressed = time.perf_counter()
    path = directory / "plain"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for part in parts:
        os.write(fd, part)
    os.fdatasync(fd)
    written = time.perf_counter()
    os.close(fd)
    os.close(memory)
    path.unlink()
    return copied - began, compressed - copied, written - compressed


def _compress(piece: memoryview) -> bytes:
    blocks = (piece[at : at + 65536] for at in range(0, len(piece), 65536))
    return b"".join(lz4.block.compress(block, store_size=False) for block in blocks)
