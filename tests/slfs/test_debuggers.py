"""Debuggers that are not made for it, on the cores of generations: drgn, and pystack for a Python program."""

import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.mounts import Mounted, wait_until
from tests.slfs.conftest import Spawn
from tests.slfs.history import History, looked_into, take

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with looked_into() as found:
        yield found


def said_by(tool: str, *words: object) -> str:
    """What a tool of this environment says; it must succeed."""
    outcome = subprocess.run(
        [Path(sys.executable).with_name(tool), *map(str, words)],
        capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr
    return outcome.stdout


DRGN = """
print(int(prog["counter"]), prog["greeting"].string_().decode())
for thread in sorted(prog.threads(), key=lambda one: one.tid):
    frames = [frame for frame in thread.stack_trace() if frame.name in ("main", "work")]
    places = [frame["place"] for frame in frames]
    print(*[f"{frame.name} {int(place.x)} {int(place.y)}" for frame, place in zip(frames, places)])
"""


def test_drgn_sees_threads_and_variables(history: History, tmp_path: Path) -> None:
    script = tmp_path / "look.py"
    script.write_text(DRGN)
    for epoch, first in ((1, ["42 kept", "main 42 1"]), (2, ["43 kept", "main 42 4"])):
        core = history.process(epoch) / "core"
        lines = said_by("drgn", "-q", "-s", history.binary, "-c", core, script).splitlines()
        assert lines == [*first, "work 1 -1", "work 2 -2", "work 3 -3"]


PYTHON = """
import pathlib, sys, threading, time
def inner(step):
    name = f"step {step}"
    pathlib.Path(sys.argv[1]).write_text(name)
    while not pathlib.Path(sys.argv[1] + str(step)).exists():
        time.sleep(0.01)
def outer(step):
    inner(step * 10)
def beside():
    kept = ["beside"]
    is_there.set()
    threading.Event().wait()
is_there = threading.Event()
threading.Thread(target=beside, daemon=True).start()
is_there.wait()
for step in (1, 2, 3):
    outer(step)
"""


def test_pystack_shows_what_python_was_doing(
    real_mount: Mounted, spawn: Spawn, tmp_path: Path
) -> None:
    said = tmp_path / "said"
    pid = spawn("/usr/bin/python3", "-c", PYTHON, str(said)).pid
    partition = real_mount.partition(1, create=True)
    (partition / "attach").write_text(str(pid))
    for epoch in (1, 2):
        wait_until(partial(has_said, said, f"step {epoch * 10}"))
        assert take(partition) == epoch
        (tmp_path / f"said{epoch * 10}").touch()
    for epoch in (1, 2):
        process = partition / f"generations/{epoch}/processes/{pid}"
        text = said_by("pystack", "core", process / "core", process / "exe", "--locals")
        assert f'name: "step {epoch * 10}"' in text
        assert f"step: {epoch}" in text
        assert "in beside" in text
        assert text.count("Traceback for thread") == 2


def has_said(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text
