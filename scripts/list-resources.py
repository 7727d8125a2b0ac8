"""Write docs/resources.md from the register of resources: `python scripts/list-resources.py [--check]`.

`--check` changes nothing and fails when the file is out of date.
"""

import inspect
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType

from sls.resources import FILE_TYPES, PROCESS_STATES, THREAD_STATES

ROOT = Path(__file__).parents[1]
TARGET = ROOT / "docs" / "resources.md"
HEAD = """# Resources

What a process is made of, and where each piece is kept. Made from the register in `sls/resources/__init__.py` by
`scripts/list-resources.py`. What is not listed is refused at the checkpoint, by name; the program goes on unharmed.
"""


def rows(kinds: Sequence[object]) -> Iterator[str]:
    """One line a module: what its docstring says first, and the tests that mirror it."""
    seen = set()
    for kind in kinds:
        module = inspect.getmodule(kind.__class__)
        assert module is not None
        if module.__name__ not in seen:
            seen.add(module.__name__)
            yield f"| `{module.__name__.removeprefix('sls.resources.')}` | {summary(module)} | {tests(module)} |\n"


def summary(module: ModuleType) -> str:
    """First paragraph of a module's docstring, on one line."""
    return " ".join((module.__doc__ or "").split("\n\n")[0].split()).replace("|", "\\|")


def tests(module: ModuleType) -> str:
    """The test files that name the module's programs."""
    name = module.__name__.removeprefix("sls.resources.").split(".")
    folder = ROOT / "tests" / "sls" / "resources"
    found = [path for path in [folder.joinpath(*name[:-1], f"test_{name[-1]}.py")] if path.exists()]
    return " ".join(f"`{path.relative_to(ROOT)}`" for path in found)


def text() -> str:
    """The whole document."""
    parts = [HEAD]
    for title, kinds in (
        ("Open files", FILE_TYPES),
        ("Processes", PROCESS_STATES),
        ("Threads", THREAD_STATES),
    ):
        parts.append(f"\n## {title}\n\n| module | what is kept | tests |\n|---|---|---|\n")
        parts += rows(kinds)
    return "".join(parts)


def main(arguments: Sequence[str]) -> int:
    """Write or check; exit status 1 when a check finds a difference."""
    if "--check" in arguments:
        return int(TARGET.read_text() != text())
    TARGET.write_text(text())
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
