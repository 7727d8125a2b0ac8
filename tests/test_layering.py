"""The layers of CONTRIBUTING.md, enforced: who may import whom, and from where."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("libsls", "slfs", "slos", "sls")

# package → the project's modules that it may import
ALLOWED = {
    "slos": ("slos",),
    "sls": ("sls", "slos"),
    "slfs": ("slfs", "sls", "slos", "libsls.protocol"),
    "libsls": ("libsls",),
}
# The one exception: mkfs, fsck, dump and copy work without a mount.
FUNCTION_IMPORTS = {"libsls/store_commands.py": ("slos",)}

# outside package → the files of the project that import it
SEAMS = {
    "pyfuse3": ("slfs/fs.py", "slfs/files/operations.py"),
    "ctypes": ("sls/syscalls.py",),
    "ptrace": ("sls/syscalls.py",),
}
NOT_IN = {"slos": ("trio", "pyfuse3", "ptrace", "psutil"), "sls": ("trio", "pyfuse3")}
# Third-party packages that libsls's command line, and nothing else in libsls, may use.
LIBSLS_THIRD_PARTY = {
    "libsls/cli.py": ("click", "rich"),
    "libsls/store_commands.py": ("click", "rich"),
}


def sources() -> list[Path]:
    return sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def imports(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """Every absolute module name that the tree imports, with its node."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from ((alias.name, child) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: relative import"
            assert child.module is not None
            yield child.module, child
            yield from ((f"{child.module}.{alias.name}", child) for alias in child.names)


def within(name: str, parents: tuple[str, ...]) -> bool:
    return any(name == parent or name.startswith(parent + ".") for parent in parents)


def function_imports(tree: ast.AST) -> set[ast.AST]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        inner
        for outer in ast.walk(tree)
        if isinstance(outer, functions)
        for inner in ast.walk(outer)
        if isinstance(inner, ast.Import | ast.ImportFrom)
    }


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_imports_point_down(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    place = relative(path)
    package = place.split("/")[0]
    inner = function_imports(tree)
    for name, node in imports(tree):
        top = name.split(".")[0]
        exempt = node in inner and within(name, FUNCTION_IMPORTS.get(place, ()))
        if top in PACKAGES and not exempt:
            # `from libsls import protocol` names libsls first, libsls.protocol second
            prefix = isinstance(node, ast.ImportFrom) and any(
                allowed.startswith(name + ".") for allowed in ALLOWED[package]
            )
            assert prefix or within(name, ALLOWED[package]), f"{place} imports {name}"
        assert top not in NOT_IN.get(package, ()), f"{place} imports {name}"
        assert place in SEAMS.get(top, (place,)), f"{place} imports {name}"
        if package == "libsls" and top not in PACKAGES:
            third_party = LIBSLS_THIRD_PARTY.get(place, ())
            assert top in sys.stdlib_module_names or top in third_party, f"{place} imports {name}"


@pytest.mark.parametrize("path", sources(), ids=relative)
def test_no_import_inside_a_function(path: Path) -> None:
    tree = ast.parse(path.read_bytes())
    place = relative(path)
    inner = function_imports(tree)
    for name, node in imports(tree):
        if node in inner:
            assert within(name, FUNCTION_IMPORTS.get(place, ())), f"{place} imports {name} late"


@pytest.mark.parametrize("name", ["capture", "restore"])
def test_orchestration_names_no_resource(name: str) -> None:
    path = ROOT / "sls" / f"{name}.py"
    if not path.exists():
        pytest.skip(f"sls/{name}.py is not there")
    for module, _ in imports(ast.parse(path.read_bytes())):
        parts = module.split(".")
        names_module = parts[:2] == ["sls", "resources"] and len(parts) > 2
        resource = ROOT / "sls" / "resources" / f"{parts[2] if names_module else ''}.py"
        assert not (names_module and resource.exists() and parts[2] != "base"), module
