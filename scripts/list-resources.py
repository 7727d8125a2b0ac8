"""Write docs/resources.md from the register of resources: `python scripts/list-resources.py [--check]`.

`--check` changes nothing and fails when the file is out of date.
"""

import inspect
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from sls.resources import FILE_TYPES, PROCESS_STATES, THREAD_STATES

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "resources.md"
PROOFS = ROOT / "docs" / "resource-tests.txt"
STRESSORS = ROOT / "docs" / "stress-ng.tsv"
PROGRAMS = """
## Programs

Each does its work across three cycles of checkpoint, SIGKILL and restore. In `tests/acceptance`: redis-server with a
client, memcached, nginx, PostgreSQL with psql in a transaction, sqlite3, bash with jobs, vim, tmux, screen, python3
(multiprocessing, asyncio), perl, node with a worker, java with a thread pool, `xz -T2`. By hand, 2026-11-26, whole
trees: go (also `go run`), rust, mono, erlang, sbcl, guile, ocaml, swipl, R, octave, ruby, php, lua, tcl, gawk, fish,
zsh, emacs; node 22 and 24, uvicorn on uvloop, gunicorn, an ipython kernel; MariaDB, haproxy, dnsmasq, sshd with its
client; OpenMPI's mpirun, `make -j2` with gcc; ffmpeg (the film is the same, byte by byte), PyTorch training (the same
loss in the end) and its loader with workers, numpy.
"""
HIDDEN = """
## What nothing shows

- **Data in a TCP connection that is not accepted yet** is refused. accept(2) alone reads it, and takes the connection
  out of the listener's queue; nothing puts one back: a new one begins at other sequence numbers, which an end that goes
  on does not take. Nor has the sender a copy, for data is confirmed when it arrives, accepted or not (its queue is
  empty in repair mode; a peek at the listener says ENOTCONN: `test_data_before_accept_is_nowhere_to_be_seen`). What
  has only been connected, or ended without data, waits in the queue again. unix(7) is the same.
- **The error of a failed connect(2)** is taken by whoever reads it. It comes back as ECONNREFUSED where the connection
  was never made and the peer has answered; without an answer too, which is told.
- **Keys of TCP_MD5SIG** are told by sock_diag of sockets that listen or are connected; of others nothing tells. A peer
  outside cannot be asked how far it is, for the question is not signed: such a connection comes back reset.
- **A pid namespace without its first process** is refused: somebody has to be number 1 in it for as long as it lasts,
  and nobody of the partition would be.
- **The layers of an overlayfs** are told by the paths it was given. Those that lead nowhere any more, that were
  relative, or that lead to what it does not show, are refused; so is a volatile one, which mounts once only.
- **Syscall user dispatch** is refused: what a tracer calls inside the process would be dispatched as well; switched
  off meanwhile, it would stay so if the tracer died.
"""
STRESS_HEAD = """
## stress-ng

Each stressor of Debian's stress-ng 0.15.06 ran as one instance with `--verify`, was checkpointed, killed and restored
in its middle (`scripts/stress-table.py`; Linux 6.18, 2 cores, beside other work, in namespaces, with a few harmless
devices). One that was refused had to end well as if nothing had been. What would reach the whole machine ran without
the rights for it.
"""
HEAD = """# Resources

What a process is made of, and where each piece is kept. Made from the register in `sls/resources/__init__.py` by
`scripts/list-resources.py`. What is not listed is refused at the checkpoint, by name; the program goes on unharmed.
*Told* stands in the generation's `report`; *refused* means that the checkpoint fails with that sentence.
"""
FACTS = ("Not kept", "Kernel")  # lines of each module's docstring
COLUMNS = (
    "| module | what is kept | not kept | since which kernel | tests |\n|---|---|---|---|---|\n"
)


def rows(kinds: Sequence[object]) -> Iterator[str]:
    """One line a module: what its docstring says, and the tests that mirror it."""
    seen = set()
    for kind in kinds:
        module = inspect.getmodule(kind.__class__)
        assert module is not None
        if module.__name__ not in seen:
            seen.add(module.__name__)
            name = module.__name__.removeprefix("sls.resources.")
            cells = [
                f"`{name}`",
                summary(module),
                *(fact(module, word) for word in FACTS),
                tests(module),
            ]
            yield f"| {' | '.join(cells)} |\n"


def summary(module: ModuleType) -> str:
    """First paragraph of a module's docstring, on one line."""
    return in_table((module.__doc__ or "").split("\n\n")[0])


def fact(module: ModuleType, word: str) -> str:
    """The line of the docstring that begins with `word`."""
    lines = [one for one in (module.__doc__ or "").splitlines() if one.startswith(f"{word}: ")]
    assert len(lines) == 1, f"{module.__name__}: its docstring needs one line `{word}: …`"
    return in_table(lines[0].removeprefix(f"{word}: ").removesuffix("."))


def in_table(text: str) -> str:
    """A cell's text, on one line."""
    return " ".join(text.split()).replace("|", "\\|")


def tests(module: ModuleType) -> str:
    """The test files that name the module's programs."""
    name = module.__name__.removeprefix("sls.resources.").split(".")
    folder = ROOT / "tests" / "sls" / "resources"
    found = [path for path in [folder.joinpath(*name[:-1], f"test_{name[-1]}.py")] if path.exists()]
    return " ".join(f"`{path.relative_to(ROOT)}`" for path in found)


def stressors() -> Iterator[str]:
    """The outcomes that `scripts/stress-table.py` has found; those that went well on one line."""
    rows = [line.split("\t") for line in STRESSORS.read_text().splitlines()]
    well = [f"`{name}`" for name, outcome, _ in rows if outcome == "well"]
    others = Counter(outcome for _, outcome, _ in rows if outcome != "well")
    counts = ", ".join(f"{count} {outcome}" for outcome, count in sorted(others.items()))
    yield f"\nOf {len(rows)}: {counts}, {len(well)} well: {', '.join(well)}.\n\n"
    yield "| stressor | outcome | words |\n|---|---|---|\n"
    for name, outcome, words in rows:
        if outcome != "well":
            yield f"| `{name}` | {outcome} | {words.replace('|', chr(92) + '|')} |\n"


def text() -> str:
    """The whole document."""
    parts = [HEAD]
    for title, kinds in (
        ("Open files", FILE_TYPES),
        ("Processes", PROCESS_STATES),
        ("Threads", THREAD_STATES),
    ):
        parts.append(f"\n## {title}\n\n{COLUMNS}")
        parts += rows(kinds)
    parts.append("\n## What proves it\n\n| of | what | test |\n|---|---|---|\n")
    parts += proofs()
    parts += [HIDDEN, PROGRAMS, STRESS_HEAD, *stressors()]
    return "".join(parts)


def proofs() -> Iterator[str]:
    """Rows of docs/resource-tests.txt (group, what, test below tests/sls/resources); each test must be there."""
    for line in PROOFS.read_text().splitlines():
        group, what, place = line.split("|")
        name, _, function = place.partition("::")
        path = (ROOT / "tests" / "sls" / "resources" / name).resolve()
        assert path.exists(), f"{path}: no such test"
        assert f"def {function}" in path.read_text(), f"{place}: no such test"
        shown = path.relative_to(ROOT).as_posix() + (f"::{function}" if function else "")
        yield f"| {group} | {what} | `{shown}` |\n"


def main(arguments: Sequence[str]) -> int:
    """Write or check; exit status 1 when a check finds a difference."""
    if "--check" in arguments:
        return int(TARGET.read_text() != text())
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
