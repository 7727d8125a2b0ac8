"""A program in a partition of a mount, handled as its users do: by reading and writing the control files."""

import os
import signal
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from sls import syscalls
from tests.mounts import is_alive, load, wait_until

MARK: Final = "SLS_TEST_JOB"
READY: Final = "ready\n"
ROOT: Final = Path(__file__).parents[2]
_PR_SET_CHILD_SUBREAPER: Final = 36


class Job:
    """One program, the partition that it is attached to, and all that it starts.

    `pid` is the program's; it is the test's child until the first restore, the mount's from then on.
    """

    def __init__(self, partition: Path, directory: Path) -> None:
        self.partition = partition
        self.directory = directory
        self.output = directory / "output"
        self.pid = 0
        self._process: subprocess.Popen[bytes] | None = None
        self._mark = f"{MARK}={directory}".encode()

    # --- the program ---

    def start(
        self,
        *command: object,
        stdin: int = subprocess.DEVNULL,
        stdout: int | None = None,
        attach: bool = True,
    ) -> "Job":
        """Run a command in the job's directory; it appends to `output`, and joins the partition."""
        with self.output.open("ab") as output:
            self._process = subprocess.Popen(
                [str(word) for word in command],
                cwd=self.directory,
                stdin=stdin,
                stdout=output if stdout is None else stdout,
                stderr=output,
                start_new_session=True,
                env=self.environment(),
            )
        self.pid = self._process.pid
        if attach:
            self.attach()
        return self

    def environment(self) -> Mapping[str, str]:
        """What the program gets: it bears the job's mark, by which `end` finds what belongs to it."""
        return os.environ | {"PYTHONPATH": str(ROOT), MARK: str(self.directory)}

    def text(self) -> str:
        """What the program has written until now."""
        return self.output.read_text(errors="replace")

    def lines(self) -> list[str]:
        """The whole lines of `text`."""
        return self.text().split("\n")[:-1]

    def wait_for(self, condition: Callable[[], object], what: str = "") -> None:
        """Wait for a condition; when it does not come, show what the program said, and the log."""
        try:
            wait_until(condition)
        except AssertionError as error:
            said = self.text()[-2000:]
            raise AssertionError(f"waited in vain for {what}\n{said}\n{self.log()}") from error

    def wait_ready(self) -> None:
        """Wait until the program says so."""
        self.wait_for(lambda: READY in self.text(), "ready")

    def wait_more_lines(self, count: int) -> None:
        """Wait until it has written so many lines more."""
        wanted = len(self.lines()) + count
        self.wait_for(lambda: len(self.lines()) >= wanted, f"{wanted} lines")

    def wait_end(self) -> int:
        """Its exit status, as Popen gives it; restored processes leave theirs in `status`."""
        if self._process is not None:
            return self._process.wait(timeout=60)
        self.wait_for(lambda: str(self.pid) in self.status()["exits"], "an exit status")
        return os.waitstatus_to_exitcode(self.status()["exits"][str(self.pid)])

    # --- the control files ---

    def write(self, file: str, words: object) -> None:
        """One command, which must succeed."""
        try:
            self._write_once(file, words)
        except OSError as error:
            raise AssertionError(f"{file}: {error}\n{self.log()}") from error

    def _write_once(self, file: str, words: object) -> None:
        # a buffered file writes again at its close what was refused, a raw one takes EAGAIN for no error
        control = os.open(self.partition / file, os.O_WRONLY)
        try:
            os.write(control, f"{words}\n".encode())
        finally:
            os.close(control)

    def attach(self) -> None:
        self.write("attach", self.pid)

    def checkpoint(self, words: str = "") -> int:
        """Take a generation, by touch when there are no words; its number."""
        if words:
            self.write("checkpoint", words)
        else:
            try:
                os.utime(self.partition / "checkpoint")
            except OSError as error:
                raise AssertionError(f"touch: {error}\n{self.log()}") from error
        return int((self.partition / "checkpoint").read_text())

    def kill(self) -> None:
        """SIGKILL to every member, and wait until they are gone. Stopped first: none has a child meanwhile."""
        members: list[int] = []
        while new := [pid for pid in self.members() if pid not in members]:
            members += new
            _send(signal.SIGSTOP, new)
        with adopting_orphans():
            _send(signal.SIGKILL, members)
            self.forget_child()
            _reap(members)
        self.wait_for(
            lambda: not self.members() and not any(map(is_alive, members)), "the end of the members"
        )  # a child of one that has ended is no member any more, and may be about to end still

    def forget_child(self) -> None:
        """Wait for the child of ours that a restore with `kill` has ended."""
        if self._process is not None:
            self._process.wait()
            self._process = None

    def restore(self, words: object = "") -> list[int]:
        """Bring a generation back in the background; its pids."""
        self.write("restore", f"{words} daemon")
        _, *pids = map(int, (self.partition / "restore").read_text().split())
        assert pids[0] == self.pid
        return pids

    def members(self) -> list[int]:
        return [int(word) for word in (self.partition / "attach").read_text().split()]

    def status(self) -> dict[str, Any]:
        return load(self.partition / "status")

    def log(self) -> str:
        return (self.partition / "log").read_text()

    def info(self, epoch: object = "latest") -> dict[str, Any]:
        return load(self.partition / f"generations/{epoch}/info")

    def refusal(self, file: str, words: object) -> tuple[int | None, str]:
        """A command that must be refused: its errno, and the reason in `status`."""
        try:
            self._write_once(file, words)
        except OSError as error:
            return error.errno, self.status()["last_error"]
        raise AssertionError(f"{words!r} was taken by {file}")

    # --- the end ---

    def end(self) -> None:
        """Nothing of the program stays, restored or not, whatever state the mount is in.

        Nor does an orphan of it that has come to the test, which may be the init of a container.
        """
        killed: list[int] = []
        with adopting_orphans():
            wait_until(lambda: self._is_killed(killed))
            if self._process is not None:
                self._process.kill()
                self._process.wait()
            _reap(killed)

    def _is_killed(self, killed: list[int]) -> bool:
        """Whether nothing of it is left to be killed; what was is noted."""
        alive = [pid for pid in _all_pids() if self._is_mine(pid)]
        _send(signal.SIGKILL, alive)
        killed += alive
        return not alive

    def _is_mine(self, pid: int) -> bool:
        """By the mark in its environment, or by where it is: redis-server writes its title over its environment."""
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            is_here = pid == self.pid and os.readlink(f"/proc/{pid}/cwd") == str(self.directory)
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            return False
        return (self._mark in environment or is_here) and is_alive(pid)


@contextmanager
def adopting_orphans() -> Iterator[None]:
    """What loses its parent comes to this process meanwhile; not every init waits for orphans at once."""
    syscalls.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        yield
    finally:
        syscalls.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def _reap(pids: Iterable[int]) -> None:
    """Wait for those of `pids`, parents before children, that are or become children of this process."""
    for pid in pids:
        try:
            os.waitpid(pid, 0)
        except ChildProcessError:
            continue


def _all_pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _send(number: int, pids: Iterable[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):  # half-restored ones end with a killed worker
            os.kill(pid, number)
