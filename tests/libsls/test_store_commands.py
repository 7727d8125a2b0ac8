"""mkfs, fsck, dump and copy as their users type them, on stores that are not mounted."""

import json
import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from libsls.cli import main
from slos.dump import ExtentItem
from slos.dump import dump as dumped
from slos.objstore import ObjectStore
from tests.conftest import WaitUntil
from tests.libsls.conftest import INTERRUPTIBLE, LAUNCHER, Slsctl

DATA = os.urandom(3 * 4096)


@pytest.fixture
def slsctl(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Slsctl:
    """`slsctl(*arguments)`: the program's outcome, without the start of an interpreter."""

    def run(*arguments: object) -> "subprocess.CompletedProcess[str]":
        words = ["slsctl", *map(str, arguments)]
        monkeypatch.setattr(sys, "argv", words)
        status = main()
        return subprocess.CompletedProcess(words, status, *capfd.readouterr())

    return run


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store of two generations of partition 5, the second with a page of its own."""
    path = tmp_path / "a.store"
    ObjectStore.create(path)
    with ObjectStore.open(path, background=False) as made:
        made.create_partition(5, b"\0properties")
        with made.begin(5) as transaction:
            transaction.put(7, DATA)
            transaction.commit(name="first")
        with made.begin(5, parent=1) as transaction:
            transaction.write(7, 4096, DATA[:4096])
            transaction.put(8, b"text")
            transaction.commit()
    return path


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, offset)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 0x10]), offset)


def page_of_first(path: Path) -> ExtentItem:
    """Where the pages of generation 1 begin."""
    extents = (item for item in dumped(path) if isinstance(item, ExtentItem))
    return next(item for item in extents if item.epoch == 1)


def test_mkfs_makes_a_clean_store(slsctl: Slsctl, tmp_path: Path) -> None:
    path = tmp_path / "new.store"
    assert slsctl("mkfs", path).returncode == 0
    outcome = slsctl("fsck", path)
    assert (outcome.returncode, outcome.stderr) == (0, "")
    assert outcome.stdout.startswith("clean (partitions: 0, generations: 0")


def test_mkfs_never_overwrites(slsctl: Slsctl, store: Path) -> None:
    before = store.read_bytes()
    outcome = slsctl("mkfs", store)
    assert (outcome.returncode, outcome.stderr.count("\n")) == (1, 1)
    assert f"slsctl: {store} exists" in outcome.stderr
    assert store.read_bytes() == before


def test_fsck_names_a_flipped_byte(slsctl: Slsctl, store: Path) -> None:
    place = page_of_first(store).file_offset
    flip(store, place + 200)
    before = store.read_bytes()
    outcome = slsctl("fsck", store)
    assert (outcome.returncode, outcome.stderr) == (1, "")
    first, *_, last = outcome.stdout.splitlines()
    assert first.startswith("generation 1 of partition 5: object 0x7 is damaged at offset 0")
    assert f"file offset {place}" in first
    assert last.startswith("findings: ")
    assert store.read_bytes() == before, "a check writes nothing"


def test_fsck_repairs(slsctl: Slsctl, store: Path) -> None:
    flip(store, 100)  # in the first copy of the superblock
    found = slsctl("fsck", store)
    assert found.returncode == 1
    assert "superblock at 0: superblock checksum mismatch" in found.stdout
    assert "fsck --repair" in found.stdout
    repaired = slsctl("fsck", store, "--repair")
    assert repaired.returncode == 1, "there were findings"
    assert "repaired: wrote both superblocks" in repaired.stdout
    assert slsctl("fsck", store).returncode == 0
    with ObjectStore.open(store, read_only=True) as made:
        assert made.read(5, 1, 7) == DATA


def test_fsck_shows_its_progress_on_a_terminal(store: Path) -> None:
    controller, terminal = pty.openpty()
    try:
        outcome = subprocess.run(
            [sys.executable, str(LAUNCHER), "fsck", str(store)],
            stdout=subprocess.PIPE,
            stderr=terminal,
            timeout=120,
            check=True,
            env=os.environ | {"TERM": "xterm"},
        )
        shown = os.read(controller, 1 << 16)
    finally:
        os.close(controller)
        os.close(terminal)
    assert b"generations" in shown
    assert b"100%" in shown
    assert outcome.stdout.startswith(b"clean")


def test_dump_as_json(slsctl: Slsctl, store: Path) -> None:
    outcome = slsctl("dump", store, "--json")
    assert outcome.returncode == 0
    items = json.loads(outcome.stdout)
    kinds = [item["item"] for item in items]
    assert kinds[:2] == ["superblock", "superblock"]
    assert {"segment", "partition", "object", "extent"} <= set(kinds)
    generations = [item for item in items if item["item"] == "generation"]
    assert [(one["epoch"], one["parent"], one["name"]) for one in generations] == [
        (1, 0, "first"),
        (2, 1, ""),
    ]


def test_dump_as_text(slsctl: Slsctl, store: Path) -> None:
    outcome = slsctl("dump", store)
    assert outcome.returncode == 0
    assert "generation oid=5 epoch=1 parent=0" in outcome.stdout
    assert "object oid=5 epoch=1 object_id=7 size_bytes=12288" in outcome.stdout
    kinds = [line.split()[0] for line in outcome.stdout.splitlines()]
    assert kinds == [line["item"] for line in json.loads(slsctl("dump", store, "--json").stdout)]


def test_dump_of_damage_goes_on(slsctl: Slsctl, store: Path) -> None:
    flip(store, 100)
    outcome = slsctl("dump", store)
    assert outcome.returncode == 1
    assert "problem text='superblock at 0: " in outcome.stdout
    assert "generation oid=5 epoch=2" in outcome.stdout


def test_dump_ends_quietly_with_its_reader(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    try:
        outcome = subprocess.run(
            [sys.executable, str(LAUNCHER), "dump", str(store)],
            stdout=writer,
            stderr=subprocess.PIPE,
            timeout=120,
            check=False,
        )
    finally:
        os.close(writer)
    assert (outcome.returncode, outcome.stderr) == (0, b"")


def test_copy_reads_back_equal(slsctl: Slsctl, store: Path, tmp_path: Path) -> None:
    new = tmp_path / "copy.store"
    outcome = slsctl("copy", store, new)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (0, "", "")
    with (
        ObjectStore.open(store, read_only=True) as one,
        ObjectStore.open(new, read_only=True) as other,
    ):
        assert other.properties(5) == b"\0properties"
        for generation in one.generations(5):
            assert other.generation(5, generation.epoch).name == generation.name
            objects = one.objects(5, generation.epoch)
            assert other.objects(5, generation.epoch) == objects
            for info in objects:
                place = (5, generation.epoch, info.object_id)
                assert other.read(*place) == one.read(*place)
    assert slsctl("fsck", new).returncode == 0


def test_copy_that_is_interrupted_leaves_no_file(
    store: Path, tmp_path: Path, wait_until: WaitUntil
) -> None:
    """Ctrl-C as soon as the new file is there."""
    with ObjectStore.open(store) as made:
        for _ in range(120):
            with made.begin(5) as transaction:
                transaction.put(7, os.urandom(1 << 20))
                transaction.commit(wait=False)
    new = tmp_path / "copy.store"
    words = [*INTERRUPTIBLE, "copy", str(store), str(new)]
    with subprocess.Popen(words, stderr=subprocess.DEVNULL) as copying:
        wait_until(new.exists)
        copying.send_signal(signal.SIGINT)
        assert copying.wait(120) == 130
    assert not new.exists()


def test_copy_of_damage_leaves_no_file(slsctl: Slsctl, store: Path, tmp_path: Path) -> None:
    flip(store, page_of_first(store).file_offset + 200)
    outcome = slsctl("copy", store, tmp_path / "copy.store")
    assert outcome.returncode == 1
    assert "generation 1 of partition 5" in outcome.stderr
    assert not (tmp_path / "copy.store").exists()


@pytest.mark.parametrize(
    "words",
    [("fsck",), ("fsck", "--repair"), ("dump",), ("dump", "--json"), ("copy",)],
    ids=" ".join,
)
def test_a_held_store_is_refused_with_its_holder(
    slsctl: Slsctl, store: Path, tmp_path: Path, words: tuple[str, ...]
) -> None:
    new = tmp_path / "copy.store"
    with ObjectStore.open(store):
        outcome = slsctl(*words, store, *([new] if words == ("copy",) else []))
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr == (
        f"slsctl: {store} is held by process {os.getpid()}; unmount that first\n"
    )
    assert not new.exists()


@pytest.mark.parametrize("verb", ["fsck", "dump", "copy", "mkfs"])
def test_a_path_that_leads_nowhere_is_one_line(slsctl: Slsctl, tmp_path: Path, verb: str) -> None:
    words = [tmp_path / "new"] if verb == "copy" else []
    outcome = slsctl(verb, tmp_path / "missing" / "a.store", *words)
    assert (outcome.returncode, outcome.stdout) == (1, "")
    assert outcome.stderr.startswith("slsctl: ")
    assert outcome.stderr.endswith(
        "No such file or directory; check the store's path and permissions\n"
    )
    assert outcome.stderr.count("\n") == 1


@pytest.mark.parametrize("verb", ["fsck", "copy"])
def test_what_is_no_store_is_refused(slsctl: Slsctl, tmp_path: Path, verb: str) -> None:
    (tmp_path / "text").write_bytes(b"no store " * 10000)
    outcome = slsctl(verb, tmp_path / "text", *([tmp_path / "new"] if verb == "copy" else []))
    assert outcome.returncode == 1
    assert outcome.stderr == (
        "slsctl: no superblock magic: this is no store; make one with slsctl mkfs\n"
    )
    assert slsctl("dump", tmp_path).stdout.count("Is a directory") == 3


@pytest.mark.parametrize(
    "words",
    [("mkfs",), ("fsck",), ("dump",), ("copy", "a"), ("fsck", "a", "--mend"), ("dump", "a", "b")],
    ids=" ".join,
)
def test_misuse_is_status_2(slsctl: Slsctl, words: tuple[str, ...]) -> None:
    outcome = slsctl(*words)
    assert outcome.returncode == 2
    assert outcome.stderr
