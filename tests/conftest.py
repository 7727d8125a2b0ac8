"""What every test gets: capability probes, skips that name what is missing, leak checks.

`SLS_REQUIRE=root,fuse` turns a skip for a named capability into a failure.
"""

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from tempfile import gettempdir

import pytest

LEAK_DEADLINE_SECONDS = 20.0


# --- capabilities -----------------------------------------------------------------------------


def missing_root() -> str:
    return "" if os.geteuid() == 0 else "uid 0"


def missing_fuse() -> str:
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        return "/dev/fuse"
    if shutil.which("fusermount3") is None:
        return "fusermount3"
    return "" if find_spec("pyfuse3") else "pyfuse3"


PROBES: dict[str, Callable[[], str]] = {"root": missing_root, "fuse": missing_fuse}
MISSING = {name: probe() for name, probe in PROBES.items()}


def required() -> set[str]:
    return {name for name in os.environ.get("SLS_REQUIRE", "").split(",") if name}


def pytest_report_header() -> list[str]:
    state = ", ".join(f"{name}: {lack or 'on'}" for name, lack in MISSING.items())
    return [f"capabilities: {state}", f"required: {', '.join(sorted(required())) or 'none'}"]


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    for name, lack in MISSING.items():
        if lack and item.get_closest_marker(name):
            if name in required():
                pytest.fail(f"{name} is required here, but {lack} is missing", pytrace=False)
            pytest.skip(f"{name}: {lack} is missing")


# --- leaks ------------------------------------------------------------------------------------


PUBLIC_PREFIX = "slfs-test-"  # of directories for mounts that other users are to reach


def mounts(base: Path) -> set[str]:
    """Where something is mounted below this run's directories; others may test here too."""
    ours = (f"{base}/", f"{gettempdir()}/{PUBLIC_PREFIX}")
    lines = Path("/proc/self/mounts").read_text().splitlines()
    return {place for place in (line.split()[1] for line in lines) if place.startswith(ours)}


def children() -> dict[int, str]:
    """Our children that are alive or not yet reaped, with their state letter."""
    found = {}
    for task in Path("/proc/self/task").iterdir():
        for pid in _children_of(task):
            try:
                stat = Path(f"/proc/{pid}/stat").read_text()
            except FileNotFoundError:
                continue
            found[int(pid)] = stat.rpartition(")")[2].split()[0]
    return found


def _children_of(task: Path) -> list[str]:
    try:
        return (task / "children").read_text().split()
    except FileNotFoundError:  # a thread that ended: faulthandler's timer is one
        return []


def stopped_tasks() -> set[int]:
    """Processes of this machine that are stopped, by a signal or a tracer."""
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            stat = (entry / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if stat.rpartition(")")[2].split()[0] in "Tt":
            found.add(int(entry.name))
    return found


def descriptors() -> dict[int, str]:
    """Our open descriptors with what they refer to."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            found[int(name)] = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the descriptor of the listing itself
            continue
    return found


class Snapshot:
    """What a test could leave behind, at one moment."""

    def __init__(self, base: Path) -> None:
        self.mounts = mounts(base)
        self.children = children()
        self.stopped = stopped_tasks()
        self.descriptors = descriptors()

    def leaks_since(self, before: "Snapshot") -> list[str]:
        """What is here now and was not there before, in words."""
        found = [f"mount {path}" for path in sorted(self.mounts - before.mounts)]
        for pid in sorted(self.children.keys() - before.children.keys()):
            found.append(f"child {pid} in state {self.children[pid]}")
        for pid in sorted(self.stopped - before.stopped):
            if is_ours(pid):
                found.append(f"stopped process {pid}")
        for fd, target in sorted(self.descriptors.items()):
            if before.descriptors.get(fd) != target:
                found.append(f"descriptor {fd} → {target}")
        return found


def is_ours(pid: int) -> bool:
    """Whether a process carries this test run's mark in its environment."""
    try:
        environ = Path(f"/proc/{pid}/environ").read_bytes()
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False
    return RUN_MARK in environ.split(b"\0")


# Inherited by whatever a test starts; other test runs on the machine carry another number.
RUN_MARK = f"SLS_TEST_RUN={os.getpid()}".encode()
os.environ["SLS_TEST_RUN"] = str(os.getpid())

# What whoever runs the tests left otherwise, and programs inherit: children's statuses do not come where SIGCHLD is
# ignored (wait(2)), and modes of new files are compared.
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
os.umask(0o022)


@pytest.fixture(autouse=True)
def no_leaks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Fails a test that leaves a mount, a child, a stopped process or a descriptor behind."""
    base = tmp_path_factory.getbasetemp()
    before = Snapshot(base)
    yield
    deadline = time.monotonic() + LEAK_DEADLINE_SECONDS
    while leaks := Snapshot(base).leaks_since(before):
        if time.monotonic() > deadline:
            pytest.fail("left behind: " + "; ".join(leaks), pytrace=False)
        time.sleep(0.01)


# --- waiting ----------------------------------------------------------------------------------

WaitUntil = Callable[..., None]


@pytest.fixture
def wait_until() -> WaitUntil:
    """`wait_until(condition, seconds=30)`: polls; fails with the condition's name when late."""

    def wait(condition: Callable[[], object], *, seconds: float = 30.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                pytest.fail(f"not within {seconds} s: {condition}")
            time.sleep(0.005)

    return wait


# --- programs ---------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def binaries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where programs in C are compiled to, once for all tests."""
    return tmp_path_factory.mktemp("binaries")
