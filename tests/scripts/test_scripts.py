"""The two commands that a newcomer types, as he types them."""

import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import pytest

from tests.mounts import REAL, MakeMount, mounting

ROOT = Path(__file__).parents[2]
MOUNT = ROOT / "scripts" / "mount-slfs.sh"


@pytest.fixture
def make_mount(tmp_path: Path) -> Iterator[MakeMount]:
    with mounting(tmp_path, REAL) as make:
        yield make


def run(*words: object, timeout: float = 120) -> "subprocess.CompletedProcess[str]":
    # Output to files: a daemon that kept them open would not let a pipe end.
    return subprocess.run(
        list(map(str, words)),
        capture_output=True,
        text=True,
        timeout=timeout,
        stdin=subprocess.DEVNULL,
        check=False,
    )


@pytest.mark.parametrize(
    "script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda one: one.name
)
def test_a_script_is_sound_bash(script: Path) -> None:
    assert run("bash", "-n", script).returncode == 0
    assert os.access(script, os.X_OK)
    assert "set -euo pipefail" in script.read_text()


def test_help_and_misuse() -> None:
    shown = run(MOUNT, "--help")
    assert shown.returncode == 0
    assert "--demo" in shown.stdout
    for words in (["--odd"], ["--store"], ["a", "b"], ["--demo", "--foreground"]):
        outcome = run(MOUNT, *words)
        assert outcome.returncode == 2
        assert "mount-slfs: " in outcome.stderr


@pytest.mark.root
@pytest.mark.fuse
def test_it_mounts_once_and_says_what_to_type(make_mount: MakeMount) -> None:
    mounted = make_mount()
    mounted.place.rmdir()
    first = run(MOUNT, "--store", mounted.store, mounted.place)
    assert first.returncode == 0, first.stderr
    mounted.daemon = mounted.status()["pid"]
    assert f"mkdir {mounted.place}/partitions/1" in first.stdout
    again = run(MOUNT, f"--store={mounted.store}", mounted.place)
    assert again.returncode == 0, again.stderr
    assert mounted.status()["pid"] == mounted.daemon
    other = run(MOUNT, "--store", f"{mounted.store}.other", mounted.place)
    assert other.returncode == 1
    assert str(mounted.store) in other.stderr


@pytest.mark.root
@pytest.mark.fuse
def test_the_demo_keeps_kills_and_brings_back(make_mount: MakeMount) -> None:
    mounted = make_mount()
    shown = run(MOUNT, "--demo", "--store", mounted.store, mounted.place)
    mounted.daemon = mounted.status()["pid"]
    assert shown.returncode == 0, shown.stdout + shown.stderr
    for line in ("kill -9", "touch", "echo daemon >", "It went on where it was"):
        assert line in shown.stdout
    assert os.listdir(mounted.place / "partitions") == []


@pytest.mark.root
@pytest.mark.fuse
@pytest.mark.parametrize("number", [0, 1], ids=["once", "continuous"])
def test_a_session_of_the_readme_works_when_pasted(
    make_mount: MakeMount, tmp_path: Path, number: int
) -> None:
    session = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)[number]
    mounted = make_mount("b").mount()
    for old, new in (("cd /tmp\n", f"cd {tmp_path}\n"), ("/slfs/", f"{mounted.place}/")):
        session = session.replace(old, new)
    output = tmp_path / "output"
    with output.open("w") as file:
        shell = subprocess.Popen(["bash", "-ec", session], stdout=file, start_new_session=True)
    try:
        assert shell.wait(timeout=120) == 0, output.read_text()
    finally:
        with suppress(ProcessLookupError):
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    assert re.search(r"^[0-9]+ [0-9]+$", output.read_text(), re.MULTILINE), (
        "what `cat restore` says"
    )
    assert os.listdir(mounted.place / "partitions") == []
    if number == 0:
        counted = [int(line) for line in (tmp_path / "count.txt").read_text().split()]
        assert counted[0] == 0
        assert all(after <= before + 1 for before, after in pairwise(counted)), (
            "a number is missing"
        )
