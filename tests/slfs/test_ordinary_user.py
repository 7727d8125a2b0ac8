"""What an ordinary user cannot get out of the daemon, which is root: by names that lead elsewhere than they did."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mounts import REAL, has_ended, mounting, wait_until

pytestmark = [pytest.mark.root, pytest.mark.fuse]
USER = 12345

PROGRAM = """
import ctypes, mmap, os, socket, sys, time
kind, place = sys.argv[1:]
if kind == "mapped":
    fd = os.open(place, os.O_RDWR)
    kept = mmap.mmap(fd, 4096)
    os.close(fd)
elif kind == "directory":
    os.chdir(place)
elif kind == "watched":
    kept = ctypes.CDLL(None).inotify_init1(0)
    assert ctypes.CDLL(None).inotify_add_watch(kept, place.encode(), 0x2) == 1
elif kind == "socket":
    kept = socket.socket(socket.AF_UNIX)
    kept.bind(place)
    kept.listen()
else:
    kept = os.open(place, os.O_RDWR | os.O_NONBLOCK)
print("ready", flush=True)
time.sleep(1000)
"""


@pytest.fixture
def directory() -> Iterator[Path]:
    """The user's own, where every user may come."""
    with TemporaryDirectory(prefix="slfs-test-") as name:
        Path(name).chmod(0o755)
        own = Path(name) / "own"
        own.mkdir()
        os.chown(own, USER, USER)
        yield own


@pytest.fixture
def partition(directory: Path) -> Iterator[Path]:
    """One that the user made on a mount for everybody."""
    with mounting(directory.parent, REAL) as make:
        place = make().mount().partition(1)
        assert as_user("mkdir", place).returncode == 0
        yield place


def as_user(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, command)], user=USER, group=USER, extra_groups=[],
        capture_output=True, text=True, check=False, timeout=180,
    )  # fmt: skip


def write_as_user(path: Path, text: object) -> "subprocess.CompletedProcess[str]":
    return as_user("sh", "-c", 'printf "%s" "$1" > "$2"', "sh", text, path)


def make_place(kind: str, place: Path) -> None:
    if kind == "fifo":
        os.mkfifo(place)
    elif kind == "directory":
        place.mkdir()
    elif kind != "socket":
        place.write_bytes(b"x" * 4096)
    if kind != "socket":
        os.chown(place, USER, USER)


def keep_and_kill(partition: Path, kind: str, place: Path) -> int:
    """A program of the user's that has `place` open is kept in generation 1, and killed; its pid."""
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, kind, place], user=USER, group=USER, extra_groups=[],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        start_new_session=True, cwd="/",
    ) as program:  # fmt: skip
        try:
            assert program.stdout is not None
            assert program.stdout.readline() == b"ready\n"
            attached = write_as_user(partition / "attach", program.pid)
            assert attached.returncode == 0, attached.stderr
            taken = as_user("touch", partition / "checkpoint")
            assert taken.returncode == 0, (partition / "log").read_text()
        finally:
            program.kill()
    return program.pid


@pytest.mark.parametrize("kind", ["file", "mapped", "fifo", "socket", "directory", "watched"])
def test_a_restore_opens_nothing_that_its_owner_may_not(
    partition: Path, directory: Path, kind: str
) -> None:
    """A path in the image leads to a file of root's by now: refused, whoever asks; put back, it comes back."""
    place, aside = directory / "d" / "place", directory / "aside"
    secrets = directory.parent / "secrets"
    for one, owner in ((directory / "d", USER), (secrets, 0)):
        one.mkdir(mode=0o700)
        os.chown(one, owner, owner)
    make_place(kind, place)
    pid = keep_and_kill(partition, kind, place)
    place.parent.rename(aside)
    make_place("directory" if kind == "directory" else "file", secrets / "place")
    if kind == "socket":
        (secrets / "place").unlink()
    else:
        os.chown(secrets / "place", 0, 0)
        os.chmod(secrets / "place", 0o755 if kind == "directory" else 0o600)
        status = (aside / "place").stat()
        os.utime(secrets / "place", ns=(status.st_atime_ns, status.st_mtime_ns))
    place.parent.symlink_to(secrets)
    assert write_as_user(partition / "restore", "daemon").returncode != 0
    assert "ermission denied" in (partition / "status").read_text()
    with pytest.raises(PermissionError), (partition / "restore").open("wb", 0) as restore:
        restore.write(b"daemon")
    assert has_ended(pid)
    assert os.listdir(secrets) == ([] if kind == "socket" else ["place"])
    place.parent.unlink()
    aside.rename(place.parent)
    restored = write_as_user(partition / "restore", "daemon")
    assert restored.returncode == 0, (partition / "log").read_text()
    found = place.stat()
    assert found.st_uid == USER
    assert stat.S_ISSOCK(found.st_mode) == (kind == "socket")
    os.kill(pid, signal.SIGKILL)
    wait_until(partial(has_ended, pid))


def test_memory_of_a_replaced_file_is_not_read(partition: Path, directory: Path) -> None:
    """`mem` shows pages of mapped files out of the file; a link to root's in its place shows nothing."""
    place, secret = directory / "place", directory.parent / "secret"
    make_place("mapped", place)
    pid = keep_and_kill(partition, "mapped", place)
    process = partition / f"generations/1/processes/{pid}"
    line = next(one for one in (process / "maps").read_text().splitlines() if str(place) in one)
    start = int(line.split("-")[0], 16)
    show = "import os, sys; print(os.pread(os.open(sys.argv[1], 0), 4, int(sys.argv[2])))"
    words = (sys.executable, "-c", show, process / "mem", start)
    assert as_user(*words).stdout == "b'xxxx'\n"
    status = place.stat()
    place.rename(directory / "aside")
    secret.write_bytes(b"s" * 4096)
    secret.chmod(0o600)
    os.utime(secret, ns=(status.st_atime_ns, status.st_mtime_ns))
    place.symlink_to(secret)
    refused = as_user(*words)
    assert refused.stdout == ""
    assert "Input/output error" in refused.stderr
