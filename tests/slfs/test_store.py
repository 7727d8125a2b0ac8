"""The store beneath the mount: no store at all, a full disk, damage, a file moved or gone."""

import contextlib
import errno
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from slos.format import SUPERBLOCK_OFFSETS
from slos.fsck import fsck
from slos.objstore import ObjectStore
from sls import proc
from tests.mounts import MakeMount, Mounted, load, wait_until
from tests.slfs.conftest import Spawn

pytestmark = [pytest.mark.root, pytest.mark.fuse]
MIB = 1 << 20

# Counts into its output for ever; at SIGUSR1 it holds as many MiB of random bytes as it was told.
HOLDER = """
import itertools, os, random, signal, sys, time
held = [random.Random(1).randbytes(1 << 20)]
def hold(*_):
    held.extend(random.Random(n).randbytes(1 << 20) for n in range(int(sys.argv[1])))
    os.write(1, b"held\\n")
signal.signal(signal.SIGUSR1, hold)
for number in itertools.count(1):
    os.write(1, b"%d\\n" % number)
    time.sleep(0.01)
"""


def checkpoint(partition: Path) -> int:
    os.utime(partition / "checkpoint")
    return int((partition / "checkpoint").read_text())


def refusal(path: Path) -> int | None:
    """The errno of touching a file; None when it works."""
    try:
        os.utime(path)
    except OSError as error:
        return error.errno
    return None


def check_counting(output: Path, count: int = 3) -> None:
    """The program goes on, and no line of it is missing."""

    def numbers() -> list[int]:
        return [int(line) for line in output.read_bytes().split(b"\n")[:-1] if line.isdigit()]

    seen = len(numbers())
    wait_until(lambda: len(numbers()) >= seen + count)
    assert numbers() == list(range(1, len(numbers()) + 1))


@pytest.mark.parametrize("kind", ["zeros", "garbage", "truncated", "newer"])
def test_012_what_is_no_store_is_not_mounted(make_mount: MakeMount, kind: str) -> None:
    """Five times each: refused in words, nothing mounted, the file untouched."""
    mounted = make_mount()
    ObjectStore.create(mounted.store)
    image = bytearray(mounted.store.read_bytes())
    for offset in SUPERBLOCK_OFFSETS:
        image[offset + 8] = 2
    contents, words = {
        "zeros": (bytes(MIB), "no store"),
        "garbage": (random.Random(12).randbytes(MIB), "no store"),
        "truncated": (bytes(image[:300]), "truncated"),
        "newer": (bytes(image), "version 2"),
    }[kind]
    mounted.store.write_bytes(contents)
    for _ in range(5):
        outcome = mounted.start()
        assert outcome.returncode == 1
        assert words in outcome.stderr
        assert "Traceback" not in outcome.stderr
        assert not mounted.is_mounted()
        assert mounted.store.read_bytes() == contents


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "none", str(place)], check=True)
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_x04_disk_full_during_a_checkpoint(
    real_mount: Mounted, small_disk: Path, tmp_path: Path
) -> None:
    """ENOSPC in words, the program unharmed, older generations whole, and room can be made."""
    real_mount.unmount()
    real_mount.store = small_disk / "a.slos"
    real_mount.mount()
    partition = real_mount.partition(1, create=True)
    output = tmp_path / "output"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", HOLDER, "64"], stdout=file)
    try:
        wait_until(lambda: output.read_bytes().count(b"\n") > 3)
        (partition / "attach").write_text(str(process.pid))
        assert checkpoint(partition) == 1
        memory = partition / f"generations/1/processes/{process.pid}/maps"
        before = memory.read_bytes()
        process.send_signal(signal.SIGUSR1)
        wait_until(lambda: b"held\n" in output.read_bytes())
        assert refusal(partition / "checkpoint") == errno.ENOSPC
        assert "No space left" in load(partition / "status")["last_error"]
        assert os.listdir(partition / "generations") == ["1", "latest"]
        assert memory.read_bytes() == before
        check_counting(output)
    finally:
        process.kill()
        process.wait()
    (partition / "restore").write_text("1 daemon")
    (pid,) = map(int, (partition / "attach").read_text().split())
    assert pid == process.pid
    assert checkpoint(partition) == 2
    os.kill(pid, signal.SIGKILL)
    real_mount.unmount()
    assert fsck(real_mount.store).is_clean


def test_a_store_deleted_under_the_mount_is_told(real_mount: Mounted, spawn: Spawn) -> None:
    """What no longer lasts is never called durable, and its barrier fails, each time."""
    partition = real_mount.partition(1, create=True)
    process = spawn()
    (partition / "attach").write_text(str(process.pid))
    assert checkpoint(partition) == 1
    with (partition / "checkpoint").open("r+b", buffering=0) as file:
        os.fsync(file.fileno())
        real_mount.store.unlink()
        with contextlib.suppress(OSError):  # the sync that fails may come first
            file.write(b"\n")
        for _ in range(2):
            with pytest.raises(OSError) as caught:
                os.fsync(file.fileno())
            assert caught.value.errno == errno.ESTALE
    assert "deleted" in load(partition / "status")["last_error"]
    assert os.listdir(partition / "generations") == ["1", "latest"]
    assert refusal(partition / "checkpoint") == errno.EROFS
    wait_until(lambda: proc.status(process.pid)["TracerPid"] == "0")


def flip(store: Path, wanted: bytes) -> None:
    """Change one bit where these bytes, which do not compress, lie in the store as they are."""
    with store.open("r+b") as file:
        image = file.read()
        at = image.index(wanted)
        file.seek(at)
        file.write(bytes([image[at] ^ 1]))


def test_x03_damage_under_the_mount_is_told(real_mount: Mounted, spawn: Spawn) -> None:
    """Bytes that rot while the store is mounted: EIO and where, never wrong bytes, nothing hangs."""
    partition = real_mount.partition(1, create=True)
    contents = random.Random(3).randbytes(4 * MIB)
    (partition / "files/data").write_bytes(contents)
    process = spawn(sys.executable, "-c", HOLDER, "1")
    wait_until(lambda: int(proc.status(process.pid)["SigCgt"], 16) & 1 << signal.SIGUSR1 - 1)
    (partition / "attach").write_text(str(process.pid))
    assert checkpoint(partition) == 1
    fd = os.open(partition / "checkpoint", os.O_RDWR)
    os.fsync(fd)
    os.close(fd)
    process.kill()
    process.wait()
    flip(real_mount.store, contents[2 * MIB : 2 * MIB + 64])
    flip(real_mount.store, random.Random(1).randbytes(MIB)[MIB // 2 : MIB // 2 + 64])
    damaged = partition / "generations/1/files/data"
    with pytest.raises(OSError) as caught:
        damaged.read_bytes()
    assert caught.value.errno == errno.EIO
    with pytest.raises(OSError) as caught:
        (partition / "restore").write_text("1 daemon")
    assert caught.value.errno == errno.EIO
    error = load(partition / "status")["last_error"]
    assert "generation 1 of partition 1" in error
    assert "offset" in error
    assert (partition / "attach").read_text() == ""
    real_mount.unmount()
    report = fsck(real_mount.store)
    assert {problem.generation for problem in report.problems} == {1}
    assert len(report.problems) >= 2


def test_a_device_that_mounts_nothing_is_told(make_mount: MakeMount) -> None:
    mounted = make_mount()
    hidden = [
        "unshare",
        "--mount",
        "sh",
        "-c",
        'mount --bind /dev/null /dev/fuse && exec "$@"',
        "sh",
    ]
    outcome = subprocess.run(
        [*hidden, sys.executable, "-m", mounted.program, mounted.store, mounted.place],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert outcome.returncode == 1
    assert "is /dev/fuse usable?" in outcome.stderr
    assert not mounted.is_mounted()
