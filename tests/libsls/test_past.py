"""slsctl on the past: tag, rm, diff, bisect, core."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.libsls.conftest import LAUNCHER, Slsctl
from tests.mounts import Mounted
from tests.slfs.history import History, looked_into, take

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with looked_into() as found:
        yield found


def run(history: History, *words: object, cwd: Path | None = None) -> tuple[int, str, str]:
    """Exit status, output and complaints of slsctl on partition 1."""
    command, *rest = map(str, words)
    outcome = subprocess.run(
        [sys.executable, LAUNCHER, command, "-o", "1", *rest],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        cwd=cwd,
        env=os.environ | {"SLFS_MOUNT": str(history.mounted.place)},
    )
    return outcome.returncode, outcome.stdout, outcome.stderr


def test_diff(history: History) -> None:
    status, said, _ = run(history, "diff", 1, 2)
    assert status == 0
    assert f"+ processes/{history.pid}/fd/4 {history.data}\n" in said
    assert run(history, "diff", 2)[1] == said
    assert run(history, "diff")[1] == said
    status, _, complaint = run(history, "diff", 1, 9)
    assert (status, complaint) == (
        1,
        "slsctl: partition 1 has no generation 9; see slsctl ls\n",
    )
    assert run(history, "diff", 1, 2, 3)[0] == 2


def test_core_is_a_sparse_copy(history: History, tmp_path: Path) -> None:
    status, said, complaint = run(history, "core", 1, tmp_path / "kept")
    assert (status, said) == (0, f"{tmp_path}/kept\n"), complaint
    copy, original = tmp_path / "kept", history.process(1) / "core"
    assert copy.stat().st_size == original.stat().st_size
    assert copy.stat().st_blocks * 512 < original.stat().st_size / 2
    assert copy.read_bytes() == original.read_bytes()
    assert run(history, "core", cwd=tmp_path)[1] == f"core.{history.pid}\n"
    status, _, complaint = run(history, "core", cwd=tmp_path)
    assert status == 1
    assert "File exists" in complaint
    assert run(history, "core", "-p", 4194304, cwd=tmp_path)[0] == 1
    counter = subprocess.run(
        ["gdb", "-batch", "-nx", "-ex", "p counter", history.binary, copy],
        capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL,
    )  # fmt: skip
    assert "$1 = 42" in counter.stdout


def test_bisect_finds_the_generation_that_broke(
    mounted: Mounted, slsctl: Slsctl, sleeper: int
) -> None:
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(f"{sleeper}\n")
    for _ in range(12):
        take(partition)
    (partition / "generations/8").rmdir()
    condition = 'test "$(basename "$1")" -lt 7'
    found = slsctl("bisect", "-o", 1, "--", "sh", "-c", condition, "sh")
    assert (found.returncode, found.stdout) == (0, "7\n"), found.stderr
    assert found.stderr.count("generation ") <= 6
    inner = slsctl("bisect", "-o", 1, 5, 11, "--", "sh", "-c", "test ! -e {}/../7/info || exit 3")
    assert (inner.returncode, inner.stdout) == (0, "5\n"), "even the first one fails"
    found = slsctl("bisect", "-o", 1, "--", "true")
    assert (found.returncode, found.stdout) == (1, "")
    assert "the last, is not bad" in found.stderr
    assert slsctl("bisect", "-o", 1).returncode == 2
    assert slsctl("bisect", "-o", 1, 9, 3, "--", "true").returncode == 2
    assert "status 127" in slsctl("bisect", "-o", 1, "--", "sh", "-c", "exit 127").stderr


def test_tag_and_rm(mounted: Mounted, slsctl: Slsctl, sleeper: int) -> None:
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(f"{sleeper}\n")
    for _ in range(2):
        take(partition)
    assert slsctl("tag", "-o", 1, "good", 1).returncode == 0
    assert slsctl("tag", "-o", 1, "newest").returncode == 0
    assert slsctl("tag", "-o", 1).stdout.split() == [
        "NAME", "GENERATION", "good", "1", "newest", "2",
    ]  # fmt: skip
    busy = slsctl("rm", "-o", 1, 1)
    assert busy.returncode == 1
    assert "generation 1 is tagged good" in busy.stderr
    missing = slsctl("tag", "-o", 1, "more", 9)
    assert missing.returncode == 1
    assert "9" in missing.stderr
    assert slsctl("tag", "-o", 1, "-d", "good").returncode == 0
    assert slsctl("rm", "-o", 1, 1).returncode == 0
    assert os.listdir(partition / "tags") == ["newest"]
    assert "has no generation 1" in slsctl("rm", "-o", 1, 1).stderr
    assert slsctl("tag", "-o", 1, "-d", "good").returncode == 1
    assert slsctl("tag", "-o", 1, "-d").returncode == 2
