"""slsctl: the command line, operating through the mount.

Exit status: 0 done, 1 refused or failed (the reason on standard error), 2 misuse; `restore` and
`spawn` in the foreground end with their process's own. The commands on a store without a mount are
in `store_commands`. Longer than other modules, for all commands share options and printing.
"""

import errno
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import click
from rich.console import Console
from rich.table import Table

from libsls import protocol
from libsls.bisect import UndecidedError, Verdict, first_bad, verdict_of
from libsls.foreground import Forwarder, wait_child, wait_restored
from libsls.mount import NoMountError, Partition, RefusedError, find_mount, statuses
from libsls.protocol import Backend, File, Mode, ProtocolError
from libsls.sparse import copy_sparse
from libsls.store_commands import COMMANDS as STORE_COMMANDS

EXIT_REFUSED: Final = 1
EXIT_INTERRUPTED: Final = 128 + signal.SIGINT
SPAWN_NOT_EXECUTABLE: Final = 126
SPAWN_NOT_FOUND: Final = 127


class Number(click.ParamType[int]):
    """A number that the protocol parses."""

    def __init__(self, name: str, parse: Callable[[str], int]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        try:
            return self._parse(str(value))
        except ProtocolError as error:
            self.fail(str(error), param, ctx)


OID = Number("OID", protocol.parse_oid)
PID = Number("PID", lambda word: protocol.parse_pids(word.encode())[0])
EPOCH = Number("GENERATION", protocol.parse_epoch)
PERIOD = Number("MS", lambda word: protocol.parse_period(word.encode()))

oid_option = click.option("-o", "--oid", type=OID, required=True, help="The partition's number.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, not a table.")


# --- printing ---------------------------------------------------------------------------------


def print_json(value: object) -> None:
    """One JSON value on standard output."""
    click.echo(json.dumps(value, indent=2))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table on standard output, plain where that is no terminal."""
    table = Table(box=None, header_style="bold", pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*("" if cell is None else str(cell) for cell in row))
    width = None if sys.stdout.isatty() else 1000
    Console(width=width, highlight=False, soft_wrap=False).print(table)


def format_bytes(count: int) -> str:
    """A size for people."""
    size = float(count)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} {unit}" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def format_time(time_ns: int) -> str:
    """A moment for people, in local time."""
    moment = time.localtime(time_ns // 10**9)
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', moment)}.{time_ns % 10**9 // 10**6:03d}"


# --- the program ------------------------------------------------------------------------------


class SpawnError(Exception):
    """A command that cannot be run. `exit_status` is what a shell ends with then."""

    def __init__(self, name: str, code: int) -> None:
        super().__init__(f"{name}: {os.strerror(code)}")
        self.exit_status = SPAWN_NOT_FOUND if code == errno.ENOENT else SPAWN_NOT_EXECUTABLE


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def slsctl() -> None:
    """Keep live processes: partitions, checkpoints, restores.

    The mount is found by itself: $SLFS_MOUNT, else the mount table.
    """


for store_command in STORE_COMMANDS:
    slsctl.add_command(store_command)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within, SIGINT is KeyboardInterrupt, unless it is ignored; before and after it ends the program at once."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def main() -> int:
    """Run slsctl; returns the exit status."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # ignored, it would take statuses away: wait(2)
    try:
        with _interruptible():
            return _run()
    except KeyboardInterrupt:  # between two steps of the above
        return EXIT_INTERRUPTED


def _run() -> int:
    try:
        status = slsctl.main(prog_name="slsctl", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except click.Abort:
        return EXIT_INTERRUPTED
    except (NoMountError, RefusedError, ProtocolError, OSError) as error:
        text = error.strerror if isinstance(error, RefusedError) else str(error)
        click.echo(f"slsctl: {text}", err=True)
        return EXIT_REFUSED
    except SpawnError as error:
        click.echo(f"slsctl: {error}", err=True)
        return error.exit_status
    return status if isinstance(status, int) else 0


# --- partitions -------------------------------------------------------------------------------


@slsctl.command()
@click.argument("backend_word", metavar="[slos|memory]", required=False)
@oid_option
@click.option("-d", "--delta", is_flag=True, help="Keep only what changed since the last one.")
@click.option("-t", "--period", type=PERIOD, default=0, help="Milliseconds between checkpoints.")
@click.option("-b", "--backend", type=click.Choice(["slos", "memory"]), help="Where to keep them.")
def partadd(
    backend_word: str | None, oid: int, delta: bool, period: int, backend: str | None
) -> None:
    """Make a partition: partadd -o OID -b slos, or partadd slos -o OID."""
    chosen = _one_backend(backend_word, backend)
    partition = Partition(oid)
    partition.create()
    try:
        partition.write(File.BACKEND, chosen.encode())
        partition.write(File.MODE, (Mode.DELTA if delta else Mode.FULL).encode())
        partition.write(File.PERIOD, str(period).encode())
    except (RefusedError, KeyboardInterrupt):
        partition.delete()
        raise


def _one_backend(word: str | None, option: str | None) -> str:
    if word is not None and word not in list(Backend):
        raise click.UsageError(f"{word} is no backend; use slos or memory")
    if word is not None and option is not None and word != option:
        raise click.UsageError(f"{word} and -b {option} contradict each other; give one")
    return word or option or Backend.SLOS


@slsctl.command()
@oid_option
def partdel(oid: int) -> None:
    """Remove a partition and its generations; its processes live on."""
    Partition(oid).delete()


@slsctl.command()
@oid_option
@click.option("-p", "--pid", "pids", type=PID, multiple=True, required=True)
def attach(oid: int, pids: tuple[int, ...]) -> None:
    """Take processes into a partition."""
    Partition(oid).attach(pids)


@slsctl.command()
@oid_option
@click.option("-p", "--pid", "pids", type=PID, multiple=True, required=True)
def detach(oid: int, pids: tuple[int, ...]) -> None:
    """Let members go; they live on."""
    Partition(oid).detach(pids)


# --- checkpoint and restore -------------------------------------------------------------------


@slsctl.command()
@oid_option
@click.option("-r", "--recursive", is_flag=True, help="Also take in the members' descendants.")
@click.option("--full", is_flag=True, help="Keep everything, whatever the mode.")
@click.option("--name", default="", help="A name for the generation.")
@click.option("--kill", is_flag=True, help="End the members with it, to be restored later.")
@click.option("--no-wait", is_flag=True, help="Do not wait until it is durable.")
def checkpoint(oid: int, recursive: bool, full: bool, name: str, kill: bool, no_wait: bool) -> None:
    """Take a generation; prints its number.

    With --kill the members do nothing after it, and TCP connections to the outside wait for the restore.
    """
    words = protocol.Checkpoint(
        recursive=recursive, full=full, kill=kill, name=protocol.parse_name(name) if name else ""
    )
    with _progress(f"checkpoint of partition {oid}"):
        epoch = Partition(oid).checkpoint(words, wait=not no_wait)
    click.echo(epoch)


@slsctl.command()
@click.argument("generation", type=EPOCH, required=False)
@oid_option
@click.option("-d", "--daemon", is_flag=True, help="In the background; prints the pids.")
@click.option("--clone", is_flag=True, help="Into fresh pids, beside live members.")
@click.option("--stopped", is_flag=True, help="Leave the processes stopped.")
@click.option("--kill", is_flag=True, help="Replace live members.")
def restore(
    generation: int | None, oid: int, daemon: bool, clone: bool, stopped: bool, kill: bool
) -> int:
    """Bring a generation back, the newest by default.

    Without -d the restored processes use this terminal, signals are passed on to them, and slsctl
    ends with the exit status of the first one.
    """
    partition = Partition(oid)
    words = protocol.Restore(
        generation=generation,
        daemon=daemon,
        clone=clone,
        stopped=stopped,
        kill=kill,
        terminal=0 if daemon else os.getpid(),
    )
    if daemon:
        click.echo(" ".join(map(str, partition.restore(words).pids)))
        return 0
    with Forwarder(partition.members) as signals:
        pid = partition.restore(words).pids[0]
        signals.to(pid)
        return wait_restored(pid, partition.path / File.STATUS)


def _progress(what: str) -> Any:
    return Console(stderr=True).status(what)  # shown on a terminal only


@slsctl.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@oid_option
@click.option("-t", "--period", type=PERIOD, help="Milliseconds between checkpoints.")
@click.option(
    "-d", "--daemon", is_flag=True, help="In the background, without a terminal; prints the pid."
)
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def spawn(oid: int, period: int | None, daemon: bool, command: tuple[str, ...]) -> int:
    """Run a command as a member; the partition is made when there is none.

    slsctl ends with the command's exit status.
    """
    partition = Partition(oid)
    with Forwarder(partition.members) as signals:
        with _made_if_missing(partition):
            pid = _start_member(partition, command, in_background=daemon)
        signals.to(pid)
        if period is not None:
            partition.write(File.PERIOD, str(period).encode())
        if period:
            partition.checkpoint(wait=False)
        if not daemon:
            return wait_child(pid)
    click.echo(pid)
    return 0


@contextmanager
def _made_if_missing(partition: Partition) -> Iterator[None]:
    """A partition for what is done within, made when there is none, and then removed again when that is refused."""
    is_new = not partition.exists()
    if is_new:
        partition.create()
    try:
        yield
    except (RefusedError, SpawnError):
        if is_new:
            partition.delete()
        raise


def _start_member(partition: Partition, command: Sequence[str], *, in_background: bool) -> int:
    """Fork, attach the child, let it exec: it is a member from its program's first instruction.

    Raises RefusedError, SpawnError; no child is left then.
    """
    gate, opener = os.pipe()
    outcome, reporter = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(opener)
        _exec_when_opened(gate, reporter, command, in_background=in_background)
    os.close(gate)
    os.close(reporter)
    with open(opener, "wb", buffering=0) as opened, open(outcome, "rb") as report:
        try:
            partition.attach([pid])
        except RefusedError:
            opened.close()
            os.waitpid(pid, 0)
            raise
        opened.write(b"\0")
        failed = report.read()  # ends with the exec
    if failed:
        os.waitpid(pid, 0)
        raise SpawnError(command[0], int(failed))
    return pid


def _exec_when_opened(
    gate: int, reporter: int, command: Sequence[str], *, in_background: bool
) -> None:
    try:
        if os.read(gate, 1):
            os.close(gate)
            if in_background:
                _leave_terminal()
            for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them; exec keeps that
                signal.signal(number, signal.SIG_DFL)
            os.execvp(command[0], list(command))
    except OSError as error:
        os.write(reporter, str(error.errno).encode())
    finally:
        os._exit(SPAWN_NOT_FOUND)


def _leave_terminal() -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)


@slsctl.command()
@oid_option
def wait(oid: int) -> None:
    """Wait until the newest generation is durable; prints its number."""
    click.echo(Partition(oid).wait_durable())


@slsctl.command()
@click.argument("generations", type=EPOCH, nargs=-1, required=True)
@oid_option
def rm(generations: tuple[int, ...], oid: int) -> None:
    """Delete generations."""
    partition = Partition(oid)
    for epoch in generations:
        partition.delete_generation(epoch)


@slsctl.command()
@click.argument("name", required=False)
@click.argument("generation", type=EPOCH, required=False)
@oid_option
@click.option("-d", "--delete", is_flag=True, help="Take the name away.")
@json_option
def tag(name: str | None, generation: int | None, oid: int, delete: bool, as_json: bool) -> None:
    """Name a generation, the newest by default, and pin it; without a name, list tags."""
    partition = Partition(oid)
    if delete and (name is None or generation is not None):
        raise click.UsageError("give the one name that is to be taken away")
    if name is None:
        found = partition.tags()
        if as_json:
            print_json(found)
        else:
            print_table(("NAME", "GENERATION"), found.items())
    elif delete:
        partition.remove_tag(protocol.parse_name(name))
    else:
        partition.tag(protocol.parse_name(name), generation or partition.newest())


@slsctl.command()
@click.argument("generation", type=EPOCH, required=False)
@click.argument("file", type=click.Path(path_type=Path), required=False)
@oid_option
@click.option("-p", "--pid", type=PID, help="Which process; needed where there are several.")
def core(generation: int | None, file: Path | None, oid: int, pid: int | None) -> None:
    """Copy a process of a generation, the newest by default, as a core file: for gdb, elsewhere.

    The file is core.PID unless named, never replaces another, and has holes.
    """
    partition = Partition(oid)
    epoch = generation or partition.newest()
    pids = [one["pid"] for one in partition.generation(epoch)["processes"]]
    if pid is None and len(pids) != 1:
        raise click.UsageError(f"generation {epoch} has pids {pids}; choose one by -p")
    chosen = pid or pids[0]
    source = partition.generation_path(epoch) / "processes" / str(chosen) / "core"
    if not source.exists():
        raise click.ClickException(f"generation {epoch} has no live process {chosen}")
    destination = file or Path(f"core.{chosen}")
    with _progress(f"core of pid {chosen}"):
        copy_sparse(source, destination)
    click.echo(destination)


# --- comparing --------------------------------------------------------------------------------


@slsctl.command()
@click.argument("generations", metavar="[[A] B]", type=EPOCH, nargs=-1)
@oid_option
def diff(generations: tuple[int, ...], oid: int) -> None:
    """What differs between two generations; of one, from its parent; of none, of the newest."""
    partition = Partition(oid)
    if len(generations) > 2:
        raise click.UsageError("give at most two generations")
    old = generations[0] if len(generations) == 2 else None
    new = generations[-1] if generations else partition.newest()
    _write(partition.difference(old, new))


@slsctl.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@oid_option
@click.argument("words", metavar="[GOOD BAD] -- COMMAND...", nargs=-1, type=click.UNPROCESSED)
def bisect(oid: int, words: tuple[str, ...]) -> None:
    """Find the first generation in which COMMAND fails; prints its number.

    COMMAND gets the generation's directory in place of {}, else as its last word. Exit status 0 is
    good, 125 skips, up to 124 is bad. GOOD and BAD are the oldest and the newest unless given.
    """
    partition = Partition(oid)
    bounds, command = _bisect_words(words)
    epochs = partition.epochs()
    if bounds:
        epochs = [epoch for epoch in epochs if bounds[0] <= epoch <= bounds[1]]
    try:
        click.echo(first_bad(epochs, lambda epoch: _judge(partition, epoch, command)))
    except UndecidedError as error:
        raise click.ClickException(str(error)) from error


def _bisect_words(words: tuple[str, ...]) -> tuple[tuple[int, int] | None, list[str]]:
    bounds = None
    command = [*words]
    if len(words) > 1 and words[0].isdecimal() and words[1].isdecimal():
        bounds = (protocol.parse_epoch(words[0]), protocol.parse_epoch(words[1]))
        command = command[2:]
        if bounds[0] > bounds[1]:
            raise click.UsageError("GOOD is older than BAD")
    if command[:1] == ["--"]:
        command = command[1:]
    if not command:
        raise click.UsageError("give a command that fails where a generation is bad")
    return bounds, command


def _judge(partition: Partition, epoch: int, command: Sequence[str]) -> Verdict:
    place = str(partition.generation_path(epoch))
    if not os.path.isdir(place):
        return Verdict.SKIPPED  # deleted since it was listed
    words = [word.replace("{}", place) for word in command]
    if words == list(command):
        words.append(place)
    verdict = verdict_of(subprocess.run(words, check=False).returncode)
    click.echo(f"generation {epoch}: {verdict.name.lower()}", err=True)
    return verdict


# --- looking ----------------------------------------------------------------------------------


@slsctl.command()
@json_option
def ps(as_json: bool) -> None:
    """List partitions and their members."""
    found = statuses(find_mount())
    if as_json:
        print_json(found)
        return
    print_table(
        ("OID", "MEMBERS", "NEWEST", "DURABLE", "PERIOD", "MODE", "BACKEND", "LAST ERROR"),
        (
            (
                status["oid"],
                " ".join(map(str, status["members"])),
                status["newest"],
                status["durable"],
                status["settings"]["period_ms"],
                status["settings"]["mode"],
                status["settings"]["backend"],
                status["last_error"],
            )
            for status in found
        ),
    )


@slsctl.command()
@oid_option
@json_option
def ls(oid: int, as_json: bool) -> None:
    """List generations."""
    partition = Partition(oid)
    if not partition.exists():
        partition.newest()  # says in words that there is no such partition
    found = [partition.generation(epoch) for epoch in partition.epochs()]
    if as_json:
        print_json(found)
        return
    print_table(
        ("GENERATION", "PARENT", "TAKEN", "LOGICAL", "STORED", "NAME"),
        (
            (
                info["epoch"],
                info["parent"],
                format_time(info["time_ns"]),
                format_bytes(info["logical_bytes"]),
                format_bytes(info["stored_bytes"]),
                info["name"],
            )
            for info in found
        ),
    )


@slsctl.command()
@oid_option
def trace(oid: int) -> None:
    """Print the stages of the last checkpoints as a trace: open it in ui.perfetto.dev or chrome://tracing."""
    click.echo(Partition(oid).trace(), nl=False)


@slsctl.command()
@click.option("-o", "--oid", type=OID, help="A partition; without it, the mount.")
@json_option
def status(oid: int | None, as_json: bool) -> None:
    """Show the state of a partition, or of the mount."""
    if oid is None:
        state: dict[str, Any] = json.loads((find_mount() / "status").read_bytes())
    else:
        partition = Partition(oid)
        state = partition.status() | {"statistics": partition.statistics()}
    if as_json:
        print_json(state)
    else:
        print_table(("FIELD", "VALUE"), _flatten(state))


def _flatten(state: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in state.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        elif isinstance(value, list):
            yield prefix + key, " ".join(map(str, value))
        else:
            yield prefix + key, "" if value is None else str(value)


@slsctl.command()
@oid_option
@click.option("-f", "--follow", is_flag=True, help="Wait for more lines.")
def log(oid: int, follow: bool) -> None:
    """Print a partition's events."""
    partition = Partition(oid)
    text = partition.read(File.LOG)
    _write(text)
    if follow:
        _follow(partition.path / File.LOG, len(text))


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.flush()


def _follow(path: Path, position: int) -> None:
    with path.open("rb", buffering=0) as file:
        poller = select.poll()
        poller.register(file, select.POLLIN)
        while True:
            data = os.pread(file.fileno(), 1 << 16, position)
            position += len(data)
            _write(data)
            if not data:
                poller.poll()
                if path.stat().st_size < position:
                    position = 0  # the log dropped its oldest half


if __name__ == "__main__":
    sys.exit(main())
