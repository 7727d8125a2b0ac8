"""Runs a self-checking program of tests/programs/ untouched, captured, and restored, and judges how it ends.

A program is started with the path of a *go* file and its case as arguments; it sets up its resource, prints `ready`,
waits for the go file, checks the resource and ends with `ok` and status 0. What happens between ready and go is the
`Way`. Each run has a process of its own, forked from the test's, so that ptrace(2) and wait(2) never meet the children
of pytest; it is the parent of the program, restored or not, and leaves nothing alive.
"""

import enum
import os
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from sls import image, proc, syscalls
from sls.capture import Capture, Tracer
from sls.errors import RestoreConflictError, SlsError, UnsupportedResourceError
from sls.resources import Loss, Parting
from sls.restore import restore
from tests.fakes.contents import MemoryContents
from tests.sls.visible import has_very_many_mappings, is_anyone_running, visible_state

PROGRAMS: Final = Path(__file__).parent.parent / "programs"
ROUNDS: Final = 2
_BACK_ASLEEP_S: Final = 20.0
_AT_REST_S: Final = 0.5  # of programs that never are
DEADLINE_SECONDS: Final = 60.0
_PR_SET_CHILD_SUBREAPER: Final = 36


class Way(enum.Enum):
    """What happens to a program between `ready` and go."""

    UNTOUCHED = "untouched"
    CONTINUED = "continued"
    RESTORED = "restored"
    REFUSED = "refused"
    CONFLICT = "conflict"
    EITHER = "restored or refused"
    PARTED = "parted"


class Outcome(msgspec.Struct, frozen=True):
    """How a run went. `failure` is empty when the program found everything as it should be.

    `refusal`: the words of the capture that was refused, or of the restore.
    """

    failure: str = ""
    losses: tuple[Loss, ...] = ()
    notes: tuple[Loss, ...] = ()
    refusal: str = ""


class ProgramError(Exception):
    """The program did not do its part: it ended early, said something is wrong, or hangs."""


# --- what a test calls ----------------------------------------------------------------------------------------------


def run(
    command: Sequence[str],
    directory: Path,
    way: Way,
    *,
    descriptors: Mapping[int, int] | None = None,
    between: Callable[[], object] | None = None,
    terminal: Sequence[int] = (),
) -> Outcome:
    """Run `command` (see `command_of`) one way in a process of its own; files go to `directory`.

    `descriptors`: number in the program → descriptor of this process. `between`: called while the program is dead,
    or, where it is never killed, before go; in a conflict, what it returns puts right again what it did.
    `terminal`: the restorer's descriptors 0, 1, 2.
    """
    read_end, write_end = os.pipe()
    pid = os.fork()
    if not pid:
        outcome = Outcome(failure="the driver died")
        try:
            os.close(read_end)
            outcome = _Run(command, directory, way, descriptors or {}, between, terminal).outcome()
        except BaseException:  # noqa: BLE001  # whatever it is, the parent shows it
            outcome = Outcome(failure=traceback.format_exc())
        finally:
            os.write(write_end, msgspec.msgpack.encode(outcome))
            os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        data = pipe.read()
    os.waitpid(pid, 0)
    return msgspec.msgpack.decode(data, type=Outcome)


def command_of(program: str, binaries: Path) -> list[str]:
    """How to start a program of tests/programs/; one in C is compiled into `binaries` by the first who asks."""
    source = PROGRAMS / program
    if source.suffix == ".py":
        return [sys.executable, "-S", "-P", str(source)]
    binary = binaries / source.stem
    if not binary.exists():
        subprocess.run(
            ["gcc", "-O1", "-Wall", "-Werror", "-pthread", "-o", binary, source, "-lrt"], check=True
        )
    return [str(binary)]


# --- one run, in the process of its own -----------------------------------------------------------------------------


class _Run:
    def __init__(
        self,
        command: Sequence[str],
        directory: Path,
        way: Way,
        descriptors: Mapping[int, int],
        between: Callable[[], object] | None,
        terminal: Sequence[int],
    ) -> None:
        self._terminal = terminal
        self._command = list(command)
        self._go = directory / "go"
        self._output = directory / "output"
        self._directory = directory
        self._way = way
        self._descriptors = descriptors
        self._between = between or (lambda: None)
        self._losses: tuple[Loss, ...] = ()
        self._notes: tuple[Loss, ...] = ()
        self._refusal = ""

    def outcome(self) -> Outcome:
        """Start the program, do to it what the way says, let it finish."""
        syscalls.become_tracer()
        syscalls.syscall("prctl", _PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        failure = ""
        try:
            self._start()
            self._wait_ready()
            _WAYS[self._way](self)
            if self._way is not Way.CONFLICT:  # which ends it itself
                self._go.touch()
                self._wait_end()
        except (ProgramError, SlsError) as error:
            failure = f"{self._way.value}: {error}"
        finally:
            _end_children()
        return Outcome(failure, self._losses, self._notes, self._refusal)

    # --- the program ---

    def _start(self) -> None:
        """Its descriptors are /dev/null and the output file, then those of the test."""
        os.chdir(self._directory)
        for fd in proc.entries(os.getpid(), "fd"):
            _keep_from_heirs(fd)
        actions: list[tuple[int, ...] | tuple[int, int, str, int, int]] = [
            (os.POSIX_SPAWN_OPEN, 0, "/dev/null", os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(self._output), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600),
            (os.POSIX_SPAWN_DUP2, 1, 2),
        ]  # fmt: skip
        actions += [(os.POSIX_SPAWN_DUP2, here, there) for there, here in self._descriptors.items()]
        self._pid = os.posix_spawn(
            self._command[0],
            self._command,
            os.environ | {"PYTHONPATH": str(PROGRAMS.parent.parent)},
            file_actions=actions,
            setsid=True,
            setsigmask=[],
            setsigdef=signal.valid_signals(),
        )

    def _text(self) -> str:
        return self._output.read_text(errors="replace") if self._output.exists() else ""

    def _wait_ready(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not self._text().startswith("ready\n"):
            if os.waitid(os.P_PID, self._pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                raise ProgramError(f"ended before it was ready:\n{self._text()}")
            if time.monotonic() > deadline:
                raise ProgramError(f"is not ready after {DEADLINE_SECONDS} s:\n{self._text()}")
            time.sleep(0.002)

    def _wait_end(self) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not (ended := os.waitpid(self._pid, os.WNOHANG))[0]:
            if time.monotonic() > deadline:
                raise ProgramError(f"hangs after go; it said:\n{self._text()}")
            time.sleep(0.002)
        status = os.waitstatus_to_exitcode(ended[1])
        if status != 0 or self._text() != "ready\nok\n":
            raise ProgramError(f"exit status {status}; it said:\n{self._text()}")

    def _tree(self) -> list[int]:
        return [self._pid, *proc.descendants(self._pid)]

    # --- the ways ---

    def stay_away(self) -> None:
        self._between()

    def go_on(self) -> None:
        tracer = Tracer()
        for _ in range(ROUNDS):
            before = self._seen_at_rest()
            capture = self._capture(tracer)
            self._expect_unchanged(before)
            self._losses += capture.image.losses
        tracer.leave(list)
        self._between()

    def come_back(self) -> None:
        tracer = Tracer()
        can_be_often = not has_very_many_mappings(self._pid)
        if can_be_often:
            self._capture(tracer)  # what comes back is what a second look sees, after the first
        for number in range(ROUNDS):
            for _ in range(_CAPTURES_OF_ROUND[number] if can_be_often else 1):
                capture = self._capture(tracer, stay=number > 0)
            self._losses += capture.image.losses
            contents = MemoryContents(capture, tracer.buffer)
            tracer.leave(list)
            _end_children()
            self._between()
            kept = image.decode(image.encode(capture.image))
            assert kept == capture.image, "what is decoded is what was encoded"
            self._notes += restore(kept, contents, terminal=self._terminal).notes

    def part_and_come_back(self) -> None:
        """Nothing happens between the capture and the end, and the outside is kept from noticing."""
        tracer = Tracer()
        for _ in range(ROUNDS):
            parting = Parting()
            capture = tracer.capture(self._tree, full=True, track=False, parting=parting)
            self._losses += capture.image.losses
            contents = MemoryContents(capture, tracer.buffer)
            with capture.hold:
                _end_children(is_held=True)
            _end_children()
            parting.image_time_ns = capture.image.time_ns
            parting.seal()
            self._between()
            kept = image.decode(image.encode(capture.image))
            self._notes += restore(kept, contents, parting=parting).notes

    def be_refused(self) -> None:
        before = self._seen_at_rest()
        try:
            self._capture(Tracer())
        except UnsupportedResourceError as error:
            self._refusal = str(error)
        else:
            raise ProgramError("was captured; it should have been refused")
        self._expect_unchanged(before)

    def _seen_at_rest(self) -> list[dict[str, object]]:
        """All that can be seen once everyone sleeps: when `ready` is said, a child may have some way to go yet."""
        deadline = time.monotonic() + _AT_REST_S
        while is_anyone_running(self._tree()) and time.monotonic() < deadline:
            time.sleep(0.001)
        return [visible_state(pid) for pid in self._tree()]

    def _expect_unchanged(self, before: list[dict[str, object]]) -> None:
        """All that can be seen is as before, once every thread is back in the call that it slept in."""
        deadline = time.monotonic() + _BACK_ASLEEP_S
        while True:
            try:
                return _compare(before, [visible_state(pid) for pid in self._tree()])
            except ProgramError:
                if time.monotonic() > deadline:
                    raise
            time.sleep(0.001)

    def come_back_or_be_refused(self) -> None:
        try:
            self.come_back()
        except UnsupportedResourceError as error:
            self._refusal = str(error)

    def conflict(self) -> None:
        tracer = Tracer()
        capture = self._capture(tracer)
        contents = MemoryContents(capture, tracer.buffer)
        _end_children()
        mend = self._between()
        before = self._traces()
        try:
            restore(capture.image, contents)
        except RestoreConflictError as error:
            self._refusal = str(error)
        else:
            raise ProgramError("was restored; the restore should have been refused")
        if (after := self._traces()) != before:
            raise ProgramError(f"a failed restore left {after} behind, {before} was there before")
        if callable(mend):
            mend()
            restore(capture.image, contents)
            self._go.touch()
            self._wait_end()

    def _traces(self) -> dict[str, object]:
        """What a restore that fails could leave: processes, descriptors (of sockets too), files."""
        me = os.getpid()
        return {
            "processes": [pid for pid in proc.descendants(me) if not proc.stat(pid).is_zombie],
            "descriptors": [proc.link(me, f"fd/{fd}") for fd in _descriptors_but_the_listing()],
            "files": sorted(str(path) for path in self._directory.rglob("*")),
        }

    def _capture(self, tracer: Tracer, *, stay: bool = False) -> Capture:
        return tracer.capture(self._tree, full=True, track=False, stay=stay)


# in the third of several that follow one another, all that can wait is made out when the program runs again
_CAPTURES_OF_ROUND: Final = (1, 3)

_WAYS: Final = {
    Way.UNTOUCHED: _Run.stay_away,
    Way.CONTINUED: _Run.go_on,
    Way.RESTORED: _Run.come_back,
    Way.REFUSED: _Run.be_refused,
    Way.CONFLICT: _Run.conflict,
    Way.EITHER: _Run.come_back_or_be_refused,
    Way.PARTED: _Run.part_and_come_back,
}


def _descriptors_but_the_listing() -> list[int]:
    return [fd for fd in proc.entries(os.getpid(), "fd") if os.path.exists(f"/proc/self/fd/{fd}")]


def _keep_from_heirs(fd: int) -> None:
    try:
        os.set_inheritable(fd, False)
    except OSError:  # the descriptor of the listing itself
        return


def _end_children(*, is_held: bool = False) -> None:
    """SIGKILL to everything below this process (a subreaper), and wait for each.

    All are stopped first: none shall see another one's end. Those that a capture holds it waits for itself.
    """
    pids = proc.descendants(os.getpid())
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                continue
    while not is_held:
        try:
            os.waitpid(-1, syscalls.WALL)
        except ChildProcessError:
            return


def _compare(before: list[dict[str, object]], after: list[dict[str, object]]) -> None:
    for old, new in zip(before, after, strict=True):
        for name in sorted(old.keys() | new.keys()):
            if old.get(name) != new.get(name):
                raise ProgramError(
                    f"the capture changed {name}:\n{old.get(name)!r}\n{new.get(name)!r}"
                )
