"""Restores that the world has no room for: a named error, nothing left, and well again once the cause is gone."""

import os
import signal
import socket
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sls import proc, syscalls
from sls.resources.sysv import remove
from tests.sls.conftest import Kept

Mend = Callable[[], object]
Cause = Callable[[Path], Mend]


def numbers(directory: Path) -> list[int]:
    """TCP port, UDP port, System V key, pid of the program."""
    return [int(word) for word in (directory / "numbers").read_text().split()]


def missing(name: str) -> Cause:
    """The file or directory is elsewhere."""

    def cause(directory: Path) -> Mend:
        (directory / name).rename(directory / "away")
        return lambda: (directory / "away").rename(directory / name)

    return cause


def shrank(directory: Path) -> Mend:
    os.truncate(directory / "file", 3)
    return lambda: (directory / "file").write_bytes(b"content")


def changed(directory: Path) -> Mend:
    path = directory / "mapped"
    before = path.stat().st_mtime_ns
    path.write_bytes(b"other!")

    def mend() -> None:
        path.write_bytes(b"mapped")
        os.utime(path, ns=(before, before))

    return mend


def port_in_use(kind: socket.SocketKind, place: int) -> Cause:
    def cause(directory: Path) -> Mend:
        stranger = socket.socket(socket.AF_INET, kind)
        stranger.bind(("127.0.0.1", numbers(directory)[place]))
        if kind == socket.SOCK_STREAM:
            stranger.listen()
        return stranger.close

    return cause


def pid_in_use(directory: Path) -> Mend:
    pid = numbers(directory)[3]
    if not syscalls.clone_child(pid):
        signal.pause()
        os._exit(0)

    def mend() -> None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, syscalls.WALL)

    return mend


def key_in_use(kind: str, call: str, *arguments: int) -> Cause:
    """Its object is gone, and a stranger's has its key."""

    def cause(directory: Path) -> Mend:
        remove_those(kind, numbers(directory)[2])
        syscalls.syscall(call, numbers(directory)[2], *arguments)
        return lambda: remove_those(kind, numbers(directory)[2])

    return cause


def remove_those(kind: str, key: int) -> None:
    lines = proc.sysv_segments() if kind == "shm" else proc.sysv_semaphores()
    for identifier in [line.identifier for line in lines if line.key == key]:
        remove(kind, identifier)


def nothing_made_stays(directory: Path) -> Mend:
    """Objects that outlive processes were made when the restore failed: they are gone again."""
    for kind in ("shm", "sem"):
        remove_those(kind, numbers(directory)[2])
    mend = missing("held")(directory)

    def look_and_mend() -> None:
        key = numbers(directory)[2]
        left = [one.key for one in proc.sysv_segments()] + [
            one.key for one in proc.sysv_semaphores()
        ]
        assert key not in left
        mend()

    return look_and_mend


CAUSES = {
    "made-and-removed": (nothing_made_stays, "held: No such file"),
    "file-missing": (missing("file"), "file: No such file"),
    "mapped-file-missing": (missing("mapped"), "mapped: No such file"),
    "directory-missing": (missing("held"), "held: No such file"),
    "cwd-missing": (missing("below"), "below, a working or root directory: No such file"),
    "fifo-missing": (missing("fifo"), "fifo"),
    "file-shrank": (shrank, "file has 3 bytes, 7 at the checkpoint"),
    "mapped-file-changed": (changed, "mapped has changed since the checkpoint"),
    "tcp-port-in-use": (port_in_use(socket.SOCK_STREAM, 0), "127.0.0.1:"),
    "udp-port-in-use": (port_in_use(socket.SOCK_DGRAM, 1), "127.0.0.1:"),
    "pid-in-use": (pid_in_use, "is in use by"),
    "semaphore-key-in-use": (key_in_use("sem", "semget", 1, 0o3600), "remove the one in its place"),
}


@pytest.fixture(autouse=True)
def none_left(tmp_path: Path) -> Iterator[None]:
    yield
    with suppress(FileNotFoundError):
        for kind in ("shm", "sem"):
            remove_those(kind, numbers(tmp_path)[2])


@pytest.mark.parametrize("name", CAUSES)
def test_what_is_missing_is_named_and_can_be_put_right(
    conflict: Kept, tmp_path: Path, name: str
) -> None:
    cause, words = CAUSES[name]
    assert words in conflict("needs.py", between=lambda: cause(tmp_path)).refusal


def test_one_that_runs_before_its_threads_are_let_go(restored: Kept) -> None:
    """It ends them by execve(2), as one that ends itself would: that is its business, and no failure."""
    restored("let_go.c")


@pytest.fixture
def small(tmp_path: Path) -> Iterator[Path]:
    """A filesystem of 256 KiB in the program's directory."""
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256K", "small", place], check=True)
    yield place
    subprocess.run(["umount", place], check=True)


def test_no_room_for_a_deleted_file(conflict: Kept, small: Path) -> None:
    def fill() -> Mend:
        (small / "other").write_bytes(bytes(200_000))
        return (small / "other").unlink

    outcome = conflict("no_room.py", between=fill)
    assert f"the 131072 bytes of {small}/deleted cannot be written: No space" in outcome.refusal
