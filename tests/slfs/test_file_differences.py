"""What `diff` tells of files: made, removed, renamed, changed between two generations."""

import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mounts import REAL, mounting
from tests.slfs.conftest import Spawn
from tests.slfs.history import take

pytestmark = [pytest.mark.root, pytest.mark.fuse]
PAGE = 4096


@pytest.fixture(scope="module")
def partitions() -> Iterator[Path]:
    with TemporaryDirectory(prefix="slfs-test-") as name, mounting(Path(name), REAL) as make:
        yield make().mount().place / "partitions"


@pytest.fixture
def partition(partitions: Path, spawn: Spawn) -> Iterator[Path]:
    """One with a member that does nothing."""
    place = partitions / "1"
    place.mkdir()
    (place / "attach").write_text(str(spawn().pid))
    yield place
    place.rmdir()


def difference(partition: Path, names: str) -> list[str]:
    """The lines about files."""
    lines = (partition / "generations" / names).read_text().splitlines()
    assert all(line[1:2] == " " for line in lines[2:])
    return [line for line in lines[2:] if line[2:].startswith("files")]


def test_names_that_came_and_are_gone(partition: Path) -> None:
    files = partition / "files"
    (files / "kept").mkdir(parents=True)
    (files / "kept/deep").mkdir()
    (files / "gone").mkdir()
    (files / "gone/inner").write_text("x")
    (files / "removed").write_text("x")
    first = take(partition)
    assert difference(partition, f"{first}/diff") == ["+ files (5 files)"]
    (files / "gone/inner").unlink()
    (files / "gone").rmdir()
    (files / "removed").unlink()
    (files / "kept/deep/new\nline").write_text("x")
    (files / "came/further").mkdir(parents=True)
    (files / "link").symlink_to("kept")
    os.link(files / "link", files / "kept/again", follow_symlinks=False)
    second = take(partition)
    wanted = [
        "+ files/came/",
        "+ files/came/further/",
        "- files/gone/",
        "- files/gone/inner",
        "+ files/kept/again -> kept",
        "+ files/kept/deep/new\\nline",
        "+ files/link -> kept",
        "- files/removed",
    ]
    assert difference(partition, f"{second}/diff") == wanted
    turned = [line.translate({ord("+"): "-", ord("-"): "+"}) for line in wanted]
    turned = [line.replace("+>", "->") for line in turned]
    assert difference(partition, f"{second}..{first}") == turned


def test_renames(partition: Path) -> None:
    files = partition / "files"
    for name in ("a", "b"):
        (files / name).mkdir()
    (files / "a/file").write_text("x")
    (files / "a/other").write_text("x")
    (files / "b/deep").mkdir()
    (files / "b/deep/x").write_text("x")
    take(partition)
    (files / "a/file").rename(files / "moved")
    (files / "b").rename(files / "a/b")
    (files / "a/b/deep/x").rename(files / "a/other")
    take(partition)
    assert difference(partition, "2/diff") == [
        "~ files/b -> files/a/b",
        "~ files/a/b/deep/x -> files/a/other",
        "~ files/a/file -> files/moved",
    ]


def test_contents_and_attributes(partition: Path) -> None:
    files = partition / "files"
    (files / "d").mkdir()
    for name in ("small", "d/large", "d/same", "touched", "truncated", "replaced", "kind"):
        (files / name).write_bytes(b"x" * 40 * PAGE)
    (files / "empty").touch()
    os.setxattr(files / "touched", "user.old", b"1")
    os.setxattr(files / "touched", "user.kept", b"1")
    take(partition)
    for name, offset in (("small", 3), ("d/large", 30 * PAGE), ("d/large", 7 * PAGE)):
        with (files / name).open("r+b") as file:
            file.seek(offset)
            file.write(b"y" * 2)
    with (files / "d/same").open("r+b") as file:
        file.write(b"x")
    os.truncate(files / "truncated", PAGE)
    os.chmod(files / "touched", 0o4600)
    os.chown(files / "d", 12, 34)
    os.setxattr(files / "touched", "user.new", b"1")
    os.removexattr(files / "touched", "user.old")
    (files / "fresh").write_bytes(b"x" * 39 * PAGE + b"y" * 10)
    (files / "fresh").rename(files / "replaced")
    (files / "kind").unlink()
    (files / "kind").mkdir()
    (files / "empty").write_text("1")
    take(partition)
    lines = difference(partition, "2/diff")
    same = [line for line in lines if line.startswith("~ files/d/same mtime: ")]
    assert len(same) == 1
    assert [line for line in lines if line not in same] == [
        "~ files/d uid: 0 -> 12",
        "~ files/d gid: 0 -> 34",
        "~ files/d/large contents: 2 of 40 pages",
        "~ files/empty size: 0 -> 1",
        "~ files/empty contents: 1 of 1 pages",
        "- files/kind",
        "+ files/kind/",
        f"~ files/replaced size: {40 * PAGE} -> {39 * PAGE + 10}",
        "~ files/replaced contents: 1 of 40 pages",
        "~ files/small contents: 1 of 40 pages",
        "~ files/touched mode: 644 -> 4600",
        "+ files/touched attribute user.new",
        "- files/touched attribute user.old",
        f"~ files/truncated size: {40 * PAGE} -> {PAGE}",
        "~ files/truncated contents: 39 of 40 pages",
    ]
    assert difference(partition, "2..2") == []


def test_a_tree_that_was_not_used_before(partition: Path) -> None:
    take(partition)
    (partition / "files/new").write_text("x")
    take(partition)
    take(partition)
    assert difference(partition, "2/diff") == ["+ files/new"]
    assert difference(partition, "3/diff") == []
    assert difference(partition, "2..1") == ["- files/new"]
    (partition / "files/new").write_text("y")  # in a directory that has not changed
    take(partition)
    assert difference(partition, "4/diff") == ["~ files/new contents: 1 of 1 pages"]
