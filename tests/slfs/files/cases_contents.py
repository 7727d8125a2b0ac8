"""Cases of contents: reading, writing, seeking, mapping, locking, running."""

import fcntl
import mmap
import os
import resource
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from typing import Any

from tests.slfs.files.cases import case, make, opened, outcome


@case
def seeking() -> Any:
    make("f", b"0123456789")
    fd = os.open("f", os.O_RDWR)
    found = [
        os.lseek(fd, 3, os.SEEK_SET),
        os.read(fd, 2).decode(),
        os.lseek(fd, -1, os.SEEK_END),
        os.lseek(fd, 100, os.SEEK_CUR),
        outcome(os.lseek, fd, -1, os.SEEK_SET),
        os.lseek(fd, 0, os.SEEK_DATA),
        os.lseek(fd, 0, os.SEEK_HOLE),
        os.lseek(fd, 9, os.SEEK_HOLE),
        outcome(os.lseek, fd, 10, os.SEEK_DATA),
        outcome(os.lseek, fd, 10, os.SEEK_HOLE),
        outcome(os.lseek, fd, 0, 77),
    ]
    os.close(fd)
    return found


@case
def appended_and_placed() -> Any:
    make("f", b"abc")
    fd = os.open("f", os.O_RDWR | os.O_APPEND)
    found = [os.write(fd, b"def"), os.pwrite(fd, b"XY", 0), os.lseek(fd, 0, os.SEEK_CUR)]
    os.close(fd)
    with open("f", "rb") as file:
        return [*found, file.read().decode()]


@case
def vectors() -> Any:
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    found: list[Any] = [
        os.writev(fd, [b"one", b"", b"three" * 3000]),
        os.pwritev(fd, [b"T", b"W"], 1),
    ]
    parts = [bytearray(2), bytearray(10)]
    found += [os.preadv(fd, parts, 0), parts[0].decode(), parts[1].decode()]
    os.close(fd)
    return [*found, os.stat("f").st_size]


@case
def written_in_pieces() -> Any:
    """Around pages and the pieces in which they are kept: each byte is where it was put."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    expected = bytearray(600_000)
    for number, offset in enumerate((0, 4095, 4097, 16383, 16384, 65535, 262143, 262144, 500_000)):
        data = bytes([number + 65]) * (3 + number * 1000)
        os.pwrite(fd, data, offset)
        expected[offset : offset + len(data)] = data
    os.ftruncate(fd, 600_000)
    os.fsync(fd)
    held = b"".join(os.pread(fd, 7777, offset) for offset in range(0, 600_000, 7777))
    os.close(fd)
    return held == expected


@case
def cut_and_grown() -> Any:
    """What lay behind a cut is zeros when the file grows again."""
    found = []
    for cut in (0, 1, 4096, 5000, 16384, 20000, 262144, 300_001):
        fd = os.open("f", os.O_CREAT | os.O_RDWR | os.O_TRUNC)
        os.write(fd, b"x" * 400_000)
        os.fsync(fd)
        os.ftruncate(fd, cut)
        os.ftruncate(fd, 400_000)
        held = os.pread(fd, 400_000, 0)
        found.append([held.count(b"x"), held[cut:].count(b"\0"), os.fstat(fd).st_size])
        os.close(fd)
    return found


@case
def cut_twice() -> Any:
    """What a first cut took away does not come back after a second, smaller one."""
    with open("f", "wb") as file:
        file.write(b"x" * 400_000)
        file.flush()
        os.fsync(file.fileno())
    for length in (100, 8192):
        fd = os.open("f", os.O_WRONLY | os.O_TRUNC)
        os.write(fd, b"y" * length)
        os.close(fd)
    os.truncate("f", 50)
    os.truncate("f", 400_000)
    with open("f", "rb") as file:
        data = file.read()
    return len(data), data.count(b"x"), data.count(b"y")


@case
def direct() -> Any:
    """O_DIRECT beside the kernel's cache."""
    make("f", b"a" * 16384)
    fd, plain = os.open("f", os.O_RDWR | os.O_DIRECT), os.open("f", os.O_RDWR)
    with mmap.mmap(-1, 4096) as page:
        page[:] = b"b" * 4096
        found = [os.pwritev(fd, [page], 4096), os.pread(plain, 8192, 2048).count(b"b")]
        os.pwrite(plain, b"c" * 100, 4100)
        found += [os.preadv(fd, [page], 4096), page[:200].count(b"c")]
    os.close(fd)
    os.close(plain)
    return found


@case
def size_limit() -> Any:
    """RLIMIT_FSIZE: EFBIG, and what fits is written."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, old[1]))
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    found = [
        os.pwrite(fd, b"x" * 9000, 0),
        os.pwrite(fd, b"x" * 9000, 5000),
        outcome(os.pwrite, fd, b"x", 10_000),
        outcome(os.ftruncate, fd, 10_001),
        outcome(os.ftruncate, fd, 10_000),
    ]
    resource.setrlimit(resource.RLIMIT_FSIZE, old)
    os.close(fd)
    return [*found, os.stat("f").st_size]


@case
def allocated() -> Any:
    """posix_fallocate(3), which falls back to writing."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"kept")
    found = [outcome(os.posix_fallocate, fd, 2, 10_000), os.fstat(fd).st_size]
    found += [os.pread(fd, 6, 0).hex(), outcome(os.posix_fallocate, fd, 0, 0)]
    os.close(fd)
    return found


@case
def copied_within_the_kernel() -> Any:
    make("a", b"copy me" * 10_000)
    source, target = os.open("a", os.O_RDONLY), os.open("b", os.O_CREAT | os.O_RDWR)
    found = [
        os.copy_file_range(source, target, 60_000, 5, 7),
        os.sendfile(target, source, 70_000, 100),
    ]
    os.close(source)
    os.close(target)
    with open("b", "rb") as file:
        data = file.read()
    return [*found, len(data), sum(data)]


@case
def mapped_in_each_way() -> Any:
    make("f", b"x" * 10_000)
    read, write, both = (os.open("f", way) for way in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR))

    def mapping(fd: int, flags: int, protection: int) -> str:
        with mmap.mmap(fd, 5000, flags, protection):
            return "mapped"

    found = []
    for fd in (read, write, both):
        for flags in (mmap.MAP_SHARED, mmap.MAP_PRIVATE):
            for protection in (mmap.PROT_READ, mmap.PROT_READ | mmap.PROT_WRITE, mmap.PROT_EXEC):
                found.append(outcome(mapping, fd, flags, protection))
    with mmap.mmap(both, 10_000) as shared:
        shared[9_990:10_000] = b"0123456789"
        shared.flush()
        os.ftruncate(both, 9_995)
        found += [os.pread(read, 20, 9_990).decode(), os.fstat(read).st_size]
    for fd in (read, write, both):
        os.close(fd)
    return found


@case
def executed() -> Any:
    make("script", b"#!/bin/sh\nexit 7\n", 0o755)
    make("plain", b"\0\1\2", 0o755)
    make("closed", b"#!/bin/sh\nexit 7\n", 0o644)
    make("lost", b"#!/missing/interpreter\n", 0o755)

    def run(name: str) -> int:
        return subprocess.call([f"./{name}"])

    found = [outcome(run, name) for name in ("script", "plain", "closed", "lost", ".")]
    fd = os.open("script", os.O_WRONLY)
    found.append(outcome(run, "script"))
    os.close(fd)
    return [*found, outcome(run, "script")]


@case
def running_files_are_busy() -> Any:
    with open("/bin/sleep", "rb") as file:
        make("sleep", file.read(), 0o755)
    with subprocess.Popen(["./sleep", "100"], stdout=subprocess.PIPE) as child:
        while os.readlink(f"/proc/{child.pid}/exe").rpartition("/")[2] != "sleep":
            pass
        found = [
            outcome(opened, "sleep", os.O_WRONLY),
            outcome(opened, "sleep", os.O_RDWR),
            outcome(opened, "sleep", os.O_RDONLY),
            outcome(opened, "sleep", os.O_WRONLY | os.O_TRUNC),
            outcome(os.truncate, "sleep", 0),
            outcome(os.chmod, "sleep", 0o700),
            outcome(os.rename, "sleep", "renamed"),
            outcome(os.unlink, "renamed"),
        ]
        child.kill()
    return found


def _in_a_child(call: Callable[[], Any]) -> Any:
    """What came of a call in another process."""
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.write(writer, str(outcome(call)).encode())
        os._exit(0)
    os.close(writer)
    os.waitpid(pid, 0)
    said = os.read(reader, 100).decode()
    os.close(reader)
    return said


@case
def locks_of_all_kinds() -> Any:
    make("f", b"x" * 100)
    fd = os.open("f", os.O_RDWR)
    read = os.open("f", os.O_RDONLY)
    found = [
        outcome(fcntl.lockf, fd, fcntl.LOCK_EX, 10, 10),
        _in_a_child(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 0)),
        _in_a_child(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 12)),
        _in_a_child(lambda: fcntl.lockf(fd, fcntl.LOCK_SH | fcntl.LOCK_NB, 5, 19)),
        outcome(fcntl.lockf, fd, fcntl.LOCK_UN, 5, 10),
        _in_a_child(lambda: fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 10)),
        outcome(fcntl.lockf, read, fcntl.LOCK_EX | fcntl.LOCK_NB, 5, 50),
        outcome(fcntl.flock, fd, fcntl.LOCK_SH | fcntl.LOCK_NB),
        outcome(fcntl.flock, read, fcntl.LOCK_SH | fcntl.LOCK_NB),
        outcome(fcntl.flock, read, fcntl.LOCK_EX | fcntl.LOCK_NB),
        outcome(fcntl.flock, fd, fcntl.LOCK_UN),
        outcome(fcntl.flock, read, fcntl.LOCK_EX | fcntl.LOCK_NB),
    ]
    os.close(fd)
    os.close(read)
    return found


@case
def synced() -> Any:
    make("f", b"x")
    os.mkfifo("p")
    found = []
    for name, flags in (
        ("f", os.O_RDONLY),
        ("f", os.O_WRONLY),
        (".", os.O_RDONLY),
        ("p", os.O_RDWR),
    ):
        fd = os.open(name, flags)
        found += [outcome(os.fsync, fd), outcome(os.fdatasync, fd)]
        os.close(fd)
    return found


@case
def sockets() -> Any:
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind("s")
        server.listen()
        found = [outcome(server.bind, "s"), stat.S_ISSOCK(os.stat("s").st_mode)]
        client.connect("s")
        client.send(b"through")
        one, _ = server.accept()
        found += [one.recv(20).decode()]
        one.close()
    with socket.socket(socket.AF_UNIX) as late:
        found += [outcome(late.connect, "s"), outcome(late.connect, "missing")]
    return [*found, outcome(os.unlink, "s")]


@case
def read_only_descriptors() -> Any:
    make("f", b"x", 0o400)
    fd = os.open("f", os.O_RDONLY)
    found = [
        outcome(os.write, fd, b"x"),
        outcome(os.ftruncate, fd, 0),
        outcome(os.fchmod, fd, 0o600),
        outcome(os.utime, fd),
        outcome(os.read, os.open(".", os.O_RDONLY), 5),
    ]
    os.close(fd)
    path = os.open("f", os.O_PATH)
    found += [outcome(os.read, path, 1), outcome(os.fchmod, path, 0o600), os.fstat(path).st_size]
    os.close(path)
    return found


@case
def made_without_rights() -> Any:
    """A file made with mode 0 is open for its maker none the less."""
    fd = os.open("f", os.O_CREAT | os.O_RDWR, 0)
    found = [os.write(fd, b"abc"), os.pread(fd, 3, 0).decode(), outcome(opened, "f", os.O_RDONLY)]
    os.close(fd)
    return found


@case
def listed_while_changed() -> Any:
    """Names that stay are told once each, whatever comes and goes meanwhile."""
    os.mkdir("d")
    for number in range(2000):
        make(f"d/keep{number}")
    seen = []
    with os.scandir("d") as entries:
        for index, entry in enumerate(entries):
            seen.append(entry.name)
            if index < 300:
                make(f"d/new{index}")
                if index % 2:
                    os.unlink(f"d/new{index}")
    kept = [name for name in seen if name.startswith("keep")]
    return len(kept), len(set(kept)), len(os.listdir("d"))
