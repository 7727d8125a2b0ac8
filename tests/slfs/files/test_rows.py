"""Rows 003, 013, 014, 101 to 104, 210, 229 and 230: the file tree with its processes."""

import errno
import mmap
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mounts import MakeMount, Mounted, wait_until
from tests.slfs.conftest import Spawn, spawn
from tests.slfs.files.digest import digest

__all__ = ["spawn"]
pytestmark = [pytest.mark.root, pytest.mark.fuse]
PROJECT = Path(__file__).parents[3]
IS_LONG = "SLS_LONG" in os.environ  # the rows' own sizes, by hand
MIB = 1 << 20


@pytest.fixture
def partition(real_mount: Mounted) -> Path:
    return real_mount.partition(1, create=True)


def checkpoint(partition: Path) -> int:
    (partition / "checkpoint").touch()
    return int((partition / "checkpoint").read_text())


def restore(partition: Path, words: str) -> list[int]:
    (partition / "restore").write_text(words)
    return [int(word) for word in (partition / "restore").read_text().split()[1:]]


def test_003_014_a_source_tree_is_identical_after_a_remount(make_mount: MakeMount) -> None:
    mounted = make_mount().mount()
    files = mounted.partition(1, create=True) / "files"
    for name in ("slfs", "tests/slfs"):
        shutil.copytree(PROJECT / name, files / name, symlinks=True)
    write_random(files / "random", (1024 if IS_LONG else 8) * MIB, seed=14)
    (files / "link").symlink_to("slfs/fs.py")
    os.link(files / "random", files / "again")
    before = digest(files)
    mounted.unmount()
    mounted.mount()
    assert digest(files) == before
    assert (files / "slfs/fs.py").read_bytes() == (PROJECT / "slfs/fs.py").read_bytes()


def write_random(path: Path, length: int, *, seed: int) -> None:
    chance = random.Random(seed)
    with path.open("wb") as file:
        for _ in range(length // MIB):
            file.write(chance.randbytes(MIB))


def test_013_four_generations_each_show_their_own(partition: Path, spawn: Spawn) -> None:
    files = partition / "files"
    (partition / "attach").write_text(str(spawn().pid))
    seen = {}
    for number in range(1, 5):
        (files / f"file{number}").write_text(f"of {number}\n")
        (files / "changing").write_bytes(b"%d" % number * 10000)
        (files / f"dir{number}").mkdir()
        (files / f"dir{number}/link").symlink_to(f"../file{number}")
        if number > 1:
            (files / f"file{number - 1}").unlink()
        assert checkpoint(partition) == number
        seen[number] = digest(files)
    for number, expected in seen.items():
        assert digest(partition / f"generations/{number}/files") == expected


def test_a_generations_files_are_read_only(partition: Path, spawn: Spawn) -> None:
    (partition / "attach").write_text(str(spawn().pid))
    (partition / "files/a").write_text("a")
    checkpoint(partition)
    files = partition / "generations/1/files"
    changes: list[Callable[[], object]] = [
        lambda: os.open(files / "a", os.O_WRONLY),
        lambda: os.open(files / "b", os.O_CREAT | os.O_WRONLY),
        lambda: os.mkdir(files / "d"),
        lambda: os.unlink(files / "a"),
        lambda: os.rename(files / "a", files / "b"),
        lambda: os.link(files / "a", files / "b"),
        lambda: os.symlink("a", files / "b"),
        lambda: os.truncate(files / "a", 0),
        lambda: os.chmod(files / "a", 0),
        lambda: os.utime(files / "a"),
        lambda: os.setxattr(files / "a", "user.x", b""),
        lambda: os.mkfifo(files / "p"),
    ]
    for change in changes:
        with pytest.raises(OSError) as caught:
            change()
        assert caught.value.errno == errno.EROFS
    with pytest.raises(OSError) as caught:
        os.link(files / "a", partition / "files/b")
    assert caught.value.errno == errno.EXDEV


def test_101_create_write_remove(tree: Path) -> None:
    place = tree / "row101"
    place.mkdir()
    data = random.Random(101).randbytes(10_000_000)
    (place / "big").write_bytes(data)
    (place / "link").symlink_to("big")
    assert (place / "link").read_bytes() == data
    (place / "d").mkdir()
    (place / "d").rmdir()
    (place / "link").unlink()
    (place / "big").unlink()
    place.rmdir()
    assert not place.exists()


def test_102_a_program_chrooted_into_files(make_mount: MakeMount) -> None:
    mounted = make_mount().mount()
    files = mounted.partition(1, create=True) / "files"
    install(Path("/bin/cat"), files)
    (files / "etc").mkdir()
    (files / "etc/motd").write_text("inside\n")
    done = subprocess.run(
        ["chroot", str(files), "/bin/cat", "/etc/motd"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "inside\n"
    mounted.unmount()


def install(program: Path, root: Path) -> None:
    """Copy a program and its libraries to where a chroot finds them."""
    listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=False)
    libraries = [word for word in listed.stdout.split() if word.startswith("/")]
    for path in [str(program), *libraries]:
        target = root / path.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(os.path.realpath(path), target)


def test_103_1024_files_read_back_identical(make_mount: MakeMount) -> None:
    """Of 1 KiB, and some of 1 MiB, unless the run is a long one."""
    mounted = make_mount().mount()
    files = mounted.partition(1, create=True) / "files"

    def contents(number: int) -> bytes:
        size = MIB if IS_LONG or number % 64 == 0 else 1024
        return random.Random(number).randbytes(size)

    for number in range(1024):
        (files / f"f{number}").write_bytes(contents(number))
    mounted.unmount()
    mounted.mount()
    assert all((files / f"f{number}").read_bytes() == contents(number) for number in range(1024))


@pytest.fixture
def small_device(tmp_path: Path) -> Iterator[Path]:
    """A file system with room for a store of some LOG_BYTES."""
    place = tmp_path / "small"
    place.mkdir()
    size = f"size={LOG_BYTES * 5 // 2 + 14 * MIB}"
    subprocess.run(["mount", "-t", "tmpfs", "-o", size, "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


LOG_BYTES = (256 if IS_LONG else 4) * MIB


def test_104_a_preallocated_log_takes_what_it_was_made_for_and_a_full_store_refuses(
    small_device: Path, make_mount: MakeMount
) -> None:
    mounted = make_mount()
    mounted.store = small_device / "a.slos"
    mounted.mount()
    files = mounted.partition(1, create=True) / "files"
    chance = random.Random(104)
    fd = os.open(files / "log", os.O_CREAT | os.O_RDWR)
    os.posix_fallocate(fd, 0, LOG_BYTES)
    for offset in range(0, LOG_BYTES, MIB):
        os.pwrite(fd, chance.randbytes(MIB), offset)
        os.fsync(fd)
    os.close(fd)
    before = digest(files)
    with pytest.raises(OSError) as caught:
        for number in range(2 * LOG_BYTES // MIB + 64):
            (files / f"f{number}").write_bytes(chance.randbytes(MIB))
            sync(files / f"f{number}")
    assert caught.value.errno == errno.ENOSPC
    assert digest(files)["log"] == before["log"]
    os.kill(mounted.daemon, signal.SIGKILL)
    mounted.wait_ended()
    mounted.mount()
    assert digest(files)["log"] == before["log"]


def sync(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def test_fsync_survives_a_killed_daemon(make_mount: MakeMount) -> None:
    mounted = make_mount().mount()
    files = mounted.partition(1, create=True) / "files"
    for number in range(2):
        (files / "d").mkdir(exist_ok=True)
        (files / f"d/f{number}").write_bytes(b"%d" % number * 5000)
        if number:
            (files / f"d/f{number - 1}").rename(files / f"d/g{number - 1}")
        sync(files / f"d/f{number}" if number % 2 else files / "d")
        expected = digest(files)
        (files / "later").write_text("not synced")
        os.kill(mounted.daemon, signal.SIGKILL)
        mounted.wait_ended()
        mounted.mount()
        found = digest(files)
        assert {name: found[name] for name in expected} == expected


# --- with processes ---


COUNTER = """
import os, time, mmap
os.chdir({files!r})
log = open("log", "r+b", buffering=0)
fd = os.open("map", os.O_RDWR | os.O_CREAT); os.ftruncate(fd, 4096); shared = mmap.mmap(fd, 4096)
count = 0
while True:
    count += 1
    log.write(b"%06d\\n" % count)
    shared[:6] = b"%06d" % count
    time.sleep(0.001)
"""


def test_210_offsets_and_mappings_roll_back_with_their_process(
    partition: Path, spawn: Spawn
) -> None:
    """A program counts into a log and into a shared mapping, both in files/: one instant for all."""
    files = partition / "files"
    (files / "log").touch()
    program = spawn(sys.executable, "-c", COUNTER.format(files=str(files)))
    wait_until(lambda: (files / "log").stat().st_size > 700)
    (partition / "attach").write_text(str(program.pid))
    checkpoint(partition)
    kept = partition / "generations/1/files"
    lines = (kept / "log").read_text().split()
    assert lines == [f"{number:06}" for number in range(1, len(lines) + 1)]
    assert int((kept / "map").read_bytes()[:6]) in (len(lines) - 1, len(lines))
    size = (files / "log").stat().st_size
    wait_until(lambda: (files / "log").stat().st_size > size)
    program.kill()
    program.wait()
    (pid,) = restore(partition, "1 daemon")
    try:
        wait_until(lambda: len((files / "log").read_text().split()) > len(lines) + 20)
        found = (files / "log").read_text().split()
        assert found == [f"{number:06}" for number in range(1, len(found) + 1)]
    finally:
        os.kill(pid, signal.SIGKILL)


def test_229_230_a_program_whose_root_lies_in_files(partition: Path, spawn: Spawn) -> None:
    files = partition / "files"
    for name in ("/bin/sh", "/bin/sleep"):
        install(Path(name), files)
    script = "n=0; while :; do n=$((n+1)); echo $n >> /log; /bin/sleep 0.01; done"
    program = spawn("chroot", str(files), "/bin/sh", "-c", script)
    wait_until(lambda: (files / "log").exists() and (files / "log").stat().st_size > 20)
    (partition / "attach").write_text(str(program.pid))
    checkpoint(partition)
    kept = (partition / "generations/1/files/log").read_text().split()
    (files / "log").unlink()
    os.killpg(program.pid, signal.SIGKILL)
    program.wait()
    wait_until(lambda: not group_exists(program.pid))  # a number is in use as a session's, too
    pids = restore(partition, "1 daemon")
    try:
        assert os.readlink(f"/proc/{pids[0]}/root") == str(files)
        wait_until(lambda: len((files / "log").read_text().split()) > len(kept) + 5)
        found = (files / "log").read_text().split()
        assert found == [str(number) for number in range(1, len(found) + 1)]
    finally:
        os.kill(pids[0], signal.SIGKILL)  # the shell; its child ends by itself


def group_exists(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_restore_can_be_undone(partition: Path, spawn: Spawn) -> None:
    files = partition / "files"
    program = spawn()
    (partition / "attach").write_text(str(program.pid))
    (files / "a").write_text("old")
    checkpoint(partition)
    with (files / "a").open("r+b") as file, mmap.mmap(file.fileno(), 3) as shared:
        shared[:] = b"new"
        shared.flush()
        (files / "b").write_text("b")
        lost = digest(files)
        program.kill()
        program.wait()
        (pid,) = restore(partition, "daemon")
        assert (files / "a").read_text() == "old"
        assert not (files / "b").exists()
        assert bytes(shared[:]) == b"old"
    assert digest(partition / "generations/2/files") == lost
    assert restore(partition, "2") == []
    assert digest(files) == lost
    os.kill(pid, signal.SIGKILL)
