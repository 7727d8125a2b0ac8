"""slsctl's commands on a store without a mount: mkfs, fsck, dump and copy.

The one place of libsls that imports slos, and only when one of them runs: every other command
starts without numpy. A mounted store is locked, so it is refused here.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import click
from rich.console import Console
from rich.progress import Progress, TaskID

from libsls.mount import RefusedError

EXIT_FOUND: Final = 1

store_argument = click.argument("store", type=click.Path(path_type=Path, readable=False))


@click.command()
@store_argument
def mkfs(store: Path) -> None:
    """Make an empty store, never over a file that exists."""
    from slos.objstore import ObjectStore

    with _refusals():
        ObjectStore.create(store)


@click.command()
@store_argument
@click.option("--repair", is_flag=True, help="Mend what can be mended; what is right stays.")
def fsck(store: Path, repair: bool) -> int:
    """Check every checksum and reference of a store that is not mounted.

    Exit status: 0 clean, 1 with findings, also where they were repaired.
    """
    from slos import fsck as checking

    with _refusals(), _shown_progress() as show:
        report = checking.fsck(store, repair=repair, progress=show)
    for line in checking.as_text(report):
        click.echo(line)
    return 0 if report.is_clean else EXIT_FOUND


@click.command()
@store_argument
@click.option("--json", "as_json", is_flag=True, help="One JSON array; bytes are in base64.")
def dump(store: Path, as_json: bool) -> int:
    """Print superblocks, segments, generations, objects and extents, one a line.

    What cannot be read is printed as a problem, and the exit status is then 1.
    """
    from slos import dump as dumping

    encode = dumping.as_json if as_json else dumping.as_text
    status = 0
    opening, between, closing = ("[\n", ",\n", "\n]\n") if as_json else ("", "\n", "\n")
    with _refusals(), _reader_may_leave():
        lead = opening
        for item in dumping.dump(store):
            sys.stdout.write(lead + encode(item))
            lead = between
            if isinstance(item, dumping.ProblemItem):
                status = EXIT_FOUND
        sys.stdout.write(closing)
    return status


@click.command()
@store_argument
@click.argument("new", type=click.Path(path_type=Path, readable=False))
def copy(store: Path, new: Path) -> None:
    """Copy a store that is not mounted into a new file: what its generations hold, no more."""
    from slos import copy as copying

    with _refusals(), _shown_progress() as show:
        copying.copy(store, new, progress=lambda done, total: show("generations", done, total))


COMMANDS: Final = (mkfs, fsck, dump, copy)


@contextmanager
def _refusals() -> Iterator[None]:
    """The store's errors as refusals, which `main` prints."""
    from slos.errors import SlosError

    try:
        yield
    except SlosError as error:
        raise RefusedError(error.errno, str(error)) from error


@contextmanager
def _reader_may_leave() -> Iterator[None]:
    """Output that its reader, `head` for one, need not read to the end."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered is flushed at exit, and must have somewhere to go.
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


@contextmanager
def _shown_progress() -> Iterator[Callable[[str, int, int], None]]:
    """`show(what, done, total)`: a bar for each kind of work, on a terminal only."""
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as bars:
        tasks: dict[str, TaskID] = {}

        def show(what: str, done: int, total: int) -> None:
            if what not in tasks:
                tasks[what] = bars.add_task(what)
            bars.update(tasks[what], completed=done, total=total)

        yield show
