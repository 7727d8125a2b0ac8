"""A stranger's test: one stressor of stress-ng, checkpointed, killed and restored in its middle through the mount.

stress-ng verifies its own work (`--verify`). Its files are in the partition's own tree, which a restore rolls back;
where that lacks what a stressor needs, in a directory outside. The processes of a run are in a control group of their
own, by which all of them are killed at once, whatever they have made of their names, sessions and parents.
"""

import enum
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple

from tests.acceptance.job import adopting_orphans
from tests.mounts import load, wait_until

LONGER: Final = (5, 20)  # times the time, for one that has ended before its checkpoint was taken
TRIES: Final = 3  # to take a checkpoint, where one is to try again
END_S: Final = 60.0  # beyond its time: what has not ended then is hung
START_S: Final = 10.0
KILL_S: Final = 120.0  # what sleeps uninterruptibly waits for a disk that others use
_SAID: Final = re.compile(r"stress-ng: (?:fail|error|warn|info): +\[\d+\] (.*)")
_DULL: Final = (
    "setting to a",
    "dispatching",
    "successful run",
    "unsuccessful",
    "skipped: ",
    "passed: ",
    "failed: ",
)
_LOGGED: Final = re.compile(r"generation \d+: ((?:pid \d+: )?[^:]+: .*)")
_ENDED: Final = re.compile(
    "pid [0-9]+ has ended; detach it|has no live member|does not exist any more"
)
# these take all they can get: a little less, or as root does not get it
_BOUNDED: Final = {
    "bad-ioctl": ("--pathological",),
    "fallocate": ("--fallocate-bytes", "32M"),
    "forkheavy": ("--forkheavy-procs", "64", "--forkheavy-allocs", "64"),
    "hdd": ("--hdd-bytes", "16M"),
    "iomix": ("--iomix-bytes", "16M"),
    "loadavg": ("--loadavg-max", "64"),
    "mlockmany": ("--mlockmany-procs", "16", "--pathological"),
    "oom-pipe": ("--pathological",),
    "revio": ("--revio-bytes", "16M"),
    "sysinval": ("--pathological",),
    "watchdog": ("--pathological",),
    "zombie": ("--zombie-max", "256"),
}
_LIMITED: Final = {  # options of prlimit(1)
    "bigheap": ("--as=536870912",),
    "brk": ("--as=536870912",),
    "mmapfork": ("--as=536870912",),
    "oom-pipe": ("--nofile=64",),
    "resources": ("--as=536870912", "--nofile=256"),
    "stack": ("--as=536870912",),
}
# three refuse to run as root; one makes all calls with random arguments: it shall end nobody but itself
_AS_NOBODY: Final = ("bad-ioctl", "exec", "spawn", "sysinval")
_NOBODY: Final = 65534
# fallocate(2), which files/ lacks, is imitated until time is over: then nothing is done, and found to be wrong
_IN_MEMORY: Final = ("fsize",)
# what would reach the machine beyond the namespaces of the run
_WITHOUT: Final = "-sys_boot,-sys_module,-sys_pacct,-sys_time,-syslog,-wake_alarm"
_WITHOUT_TOO: Final = {
    "bind-mount": ",-sys_admin",
    "klog": ",-sys_admin",
    "smi": ",-sys_rawio",
    "softlockup": ",-sys_nice",
    "swap": ",-sys_admin",
    "uprobe": ",-sys_admin,-perfmon,-bpf",
}
_JOIN: Final = 'echo 0 > "$1/cgroup.procs" && shift && exec "$@"'


class Outcome(enum.Enum):
    """How it went."""

    WELL = "well"
    REFUSED = "refused by name"
    WRONG = "came back wrong"
    HUNG = "hung"
    NOT_HERE = "does not run here"


class Result(NamedTuple):
    """One stressor's line of the table."""

    stressor: str
    outcome: Outcome
    words: str = ""


# --- the processes of a run -------------------------------------------------------------------


def unified_hierarchy() -> Path | None:
    """Where the control groups of version 2 are."""
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2":
            return Path(place)
    return None


class Group:
    """A control group of version 2."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def kill(self) -> None:
        """SIGKILL to all at once, and wait until their numbers are free. Frozen first: none is born meanwhile."""
        with adopting_orphans():
            (self.path / "cgroup.freeze").write_text("1")
            wait_until(self._is_frozen, KILL_S)
            (self.path / "cgroup.kill").write_text("1")
            wait_until(self._is_gone, KILL_S)
            (self.path / "cgroup.freeze").write_text("0")

    def _is_gone(self) -> bool:
        """Whether no number is in use; those that have ended are waited for where they are children of this process."""
        there = [int(name) for name in os.listdir("/proc") if name.isdigit() and self._has(name)]
        for pid in there:
            with suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        return not there

    def _has(self, pid: str) -> bool:
        """Whether it is a member: one that has ended is none any more, but is still known to have been."""
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        except (FileNotFoundError, ProcessLookupError):
            return False
        return any(line.startswith("0::") and f"/{self.path.name}" in line for line in groups)

    def _is_frozen(self) -> bool:
        return "frozen 1" in (self.path / "cgroup.events").read_text()

    def is_removed(self) -> bool:
        """Take the group away, and those that its processes have made below it."""
        with suppress(OSError):
            for below in sorted(self.path.rglob("*/"), reverse=True):
                below.rmdir()
            self.path.rmdir()
        return not self.path.exists()


@contextmanager
def group(name: str) -> Iterator[Group]:
    """A control group whose name begins so; when it is left, nothing of it lives."""
    hierarchy = unified_hierarchy()
    assert hierarchy is not None
    made = Group(Path(tempfile.mkdtemp(prefix=name, dir=hierarchy)))
    try:
        yield made
    finally:
        made.kill()
        wait_until(made.is_removed, KILL_S)


# --- one run ----------------------------------------------------------------------------------


def tried(
    name: str,
    partition: Path,
    directory: Path,
    seconds: int,
    between: Callable[[], object] = lambda: None,
) -> Result:
    """Run one stressor: longer, where it ended too early; outside, where the partition's own tree is not enough.

    `between` is called once it is killed and not restored yet.
    """
    inside = partition / "files" / name
    inside.mkdir()
    for files in (Path("/dev/shm"),) if name in _IN_MEMORY else (inside, directory):
        for times in (1, *LONGER):
            result = _once(name, partition, directory, files, seconds * times, between)
            if not _ENDED.search(result.words):
                break
        if result.outcome is not Outcome.NOT_HERE:
            break
    return result


def _once(
    name: str,
    partition: Path,
    directory: Path,
    files: Path,
    seconds: int,
    between: Callable[[], object],
) -> Result:
    with group(f"sls-stress-{partition.name}-") as members:
        run = _Run(name, partition, directory / "output", members, seconds)
        run.start(files)
        try:
            outcome, words = run.judged(between)
        finally:
            run.end()
    return Result(name, outcome, " ".join(words.split()))


class _Run:
    def __init__(
        self, name: str, partition: Path, output: Path, members: Group, seconds: int
    ) -> None:
        self._name = name
        self._partition = partition
        self._output = output
        self._group = members
        self._seconds = seconds
        self._logged = len((partition / "log").read_text())

    def start(self, files: Path) -> None:
        """In its group and session."""
        without = _WITHOUT + _WITHOUT_TOO.get(self._name, "")
        command = ["setpriv", "--bounding-set", without]
        if self._name in _AS_NOBODY:
            os.chown(files, _NOBODY, _NOBODY)
            command += ["--reuid", str(_NOBODY), "--regid", str(_NOBODY), "--clear-groups"]
        if limits := _LIMITED.get(self._name):
            command += ["prlimit", *limits]
        command += ["stress-ng", f"--{self._name}", "1", "--timeout", str(self._seconds)]
        command += ["--verify", "-v", "--temp-path", str(files), *_BOUNDED.get(self._name, ())]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                ["sh", "-c", _JOIN, "sh", str(self._group.path), *command],
                cwd=self._output.parent,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def judged(self, between: Callable[[], object]) -> tuple[Outcome, str]:
        """Checkpoint, kill, restore, wait for the end."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(self._seconds / 3)
            return (
                Outcome.NOT_HERE,
                self._said() or f"ends by itself with {self._process.returncode}",
            )
        try:
            self._write("attach", str(self._process.pid))
            self._checkpoint()
        except OSError:
            return self._unharmed()
        self._group.kill()
        self._process.wait()
        between()
        try:
            self._write("restore", "daemon")
        except OSError:
            return Outcome.WRONG, f"not restored: {self._last_error()}"
        return self._came_back()

    def _checkpoint(self) -> None:
        """Try again where that is what the refusal says to do."""
        for _ in range(TRIES - 1):
            with suppress(BlockingIOError):
                return self._write("checkpoint", "")
        return self._write("checkpoint", "")

    def _came_back(self) -> tuple[Outcome, str]:
        deadline = time.monotonic() + self._seconds + END_S
        while (status := self._exit()) is None:
            if time.monotonic() > deadline:
                return Outcome.HUNG, self._said()
            time.sleep(0.02)
        if os.waitstatus_to_exitcode(status):
            return Outcome.WRONG, f"{self._said()}; {self._notes()}"
        return Outcome.WELL, self._notes()

    def _unharmed(self) -> tuple[Outcome, str]:
        """Refused: it has to end as if nothing had been."""
        reason = self._last_error()
        try:
            status = self._process.wait(self._seconds + END_S)
        except subprocess.TimeoutExpired:
            return Outcome.HUNG, f"after a refusal: {reason}"
        if status or "[Errno" in reason:
            return Outcome.WRONG, f"after a refusal: {reason}: {self._said()}"
        return Outcome.REFUSED, reason

    def end(self) -> None:
        """Nothing of it lives."""
        self._group.kill()
        with suppress(ChildProcessError):
            self._process.wait(START_S)

    # --- what it said ---

    def _said(self) -> str:
        """The lines of its output that are neither progress nor praise."""
        lines = _SAID.findall(self._output.read_text(errors="replace"))
        return "; ".join([line for line in lines if not line.startswith(_DULL)][:2])

    def _notes(self) -> str:
        """What the log tells of losses."""
        return "; ".join(_LOGGED.findall((self._partition / "log").read_text()[self._logged :])[:2])

    def _last_error(self) -> str:
        return str(load(self._partition / "status")["last_error"])

    def _exit(self) -> int | None:
        found = load(self._partition / "status")["exits"].get(str(self._process.pid))
        return None if found is None else int(found)

    def _write(self, file: str, words: str) -> None:
        # os.write: a raw file of Python's takes EAGAIN for no error
        control = os.open(self._partition / file, os.O_WRONLY)
        try:
            os.write(control, f"{words}\n".encode())
        finally:
            os.close(control)
