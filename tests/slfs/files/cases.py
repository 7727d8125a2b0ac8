"""Cases of POSIX, each run in a directory of its own: what comes of it, an errno's name or a value.

The same must come of it on any two file systems. Root prepares nothing: what a case needs it makes,
or finds in `by-root`.
"""

import errno
import fcntl
import mmap
import os
import stat
import time
from collections.abc import Callable
from typing import Any

NAME = "n" * 255
cases: dict[str, Callable[[], Any]] = {}


def case(function: Callable[[], Any]) -> Callable[[], Any]:
    cases[function.__name__] = function
    return function


def outcome(call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """An errno's name, or what the call returned where that is comparable."""
    try:
        value = call(*args, **more)
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))
    return value if isinstance(value, int | str | list | tuple) else "done"


def make(name: str, data: bytes = b"", mode: int = 0o644) -> str:
    fd = os.open(name, os.O_CREAT | os.O_WRONLY | os.O_EXCL, mode)
    os.write(fd, data)
    os.close(fd)
    return name


def opened(name: str, flags: int, mode: int = 0o644) -> str:
    os.close(os.open(name, flags, mode))
    return "opened"


def names_in(name: str) -> list[str]:
    return sorted(os.listdir(name))


def shape(name: str) -> list[Any]:
    one = os.lstat(name)
    size = one.st_size if not stat.S_ISDIR(one.st_mode) else -1
    return [oct(one.st_mode), one.st_nlink, one.st_uid, one.st_gid, size, one.st_rdev]


# --- open, create ---


@case
def open_missing() -> Any:
    return outcome(opened, "a", os.O_RDONLY), outcome(opened, "a/b", os.O_RDONLY)


@case
def open_exclusive() -> Any:
    make("a")
    os.symlink("missing", "l")
    flags = os.O_CREAT | os.O_EXCL | os.O_WRONLY
    return outcome(opened, "a", flags), outcome(opened, "l", flags)


@case
def open_kinds() -> Any:
    os.mkdir("d")
    make("f")
    os.symlink("f", "l")
    return [
        outcome(opened, "d", os.O_WRONLY),
        outcome(opened, "d", os.O_RDONLY | os.O_CREAT),
        outcome(opened, "f", os.O_RDONLY | os.O_DIRECTORY),
        outcome(opened, "f/x", os.O_RDONLY),
        outcome(opened, "l", os.O_RDONLY | os.O_NOFOLLOW),
        outcome(opened, "l/", os.O_RDONLY),
    ]


@case
def open_long_names() -> Any:
    return [
        outcome(opened, NAME, os.O_CREAT | os.O_WRONLY),
        outcome(opened, NAME + "n", os.O_CREAT | os.O_WRONLY),
        outcome(opened, NAME + "n", os.O_RDONLY),
        outcome(os.mkdir, NAME + "n"),
        outcome(os.symlink, "x", NAME + "n"),
        outcome(os.rename, NAME, NAME + "n"),
        outcome(os.link, NAME, NAME + "n"),
        outcome(os.unlink, NAME + "n"),
        outcome(opened, "a/" * 2048, os.O_RDONLY),
    ]


@case
def open_loop() -> Any:
    os.symlink("b", "a")
    os.symlink("a", "b")
    return outcome(opened, "a", os.O_RDONLY), outcome(os.stat, "a/x"), outcome(os.chmod, "b", 0)


@case
def open_truncates() -> Any:
    make("a", b"12345")
    before = os.stat("a").st_mtime_ns
    os.close(os.open("a", os.O_WRONLY | os.O_TRUNC))
    return os.stat("a").st_size, os.stat("a").st_mtime_ns >= before


@case
def open_modes() -> Any:
    results = []
    for mode in (0o000, 0o200, 0o400, 0o600):
        make(f"m{mode}", mode=0o600)
        os.chmod(f"m{mode}", mode)
        results += [
            outcome(opened, f"m{mode}", flag) for flag in (os.O_RDONLY, os.O_WRONLY, os.O_RDWR)
        ]
    return results


@case
def create_with_umask() -> Any:
    old = os.umask(0o027)
    make("f", mode=0o666)
    os.mkdir("d", 0o777)
    os.mkfifo("p", 0o666)
    os.umask(old)
    return shape("f"), shape("d"), shape("p")


@case
def create_without_permission() -> Any:
    os.mkdir("d")
    make("d/f")
    os.chmod("d", 0o500)
    found = [
        outcome(opened, "d/x", os.O_CREAT | os.O_WRONLY),
        outcome(os.mkdir, "d/y"),
        outcome(os.symlink, "x", "d/s"),
        outcome(os.mkfifo, "d/p"),
        outcome(os.link, "d/f", "d/g"),
        outcome(os.rename, "d/f", "d/h"),
        outcome(os.unlink, "d/f"),
    ]
    os.chmod("d", 0o600)
    found += [outcome(os.stat, "d/f"), outcome(names_in, "d")]
    os.chmod("d", 0o300)
    return [*found, outcome(names_in, "d")]


@case
def by_root() -> Any:
    """What belongs to root, in a directory of root's and in a sticky one."""
    root = "../../by-root"
    return [
        outcome(opened, f"{root}/secret", os.O_RDONLY),
        outcome(opened, f"{root}/public", os.O_WRONLY),
        outcome(os.unlink, f"{root}/public"),
        outcome(os.chmod, f"{root}/public", 0o644),
        outcome(os.chown, f"{root}/public", 0, 0),
        outcome(os.utime, f"{root}/public"),
        outcome(os.utime, f"{root}/writable"),
        outcome(os.utime, f"{root}/writable", (1, 1)),
        outcome(os.truncate, f"{root}/public", 0),
        outcome(os.setxattr, f"{root}/public", "user.x", b"y"),
        outcome(os.unlink, f"{root}/sticky/f"),
        outcome(os.rename, f"{root}/sticky/f", f"{root}/sticky/g"),
        outcome(os.rename, f"{root}/sticky/g", f"{root}/sticky/f"),
        outcome(os.rmdir, f"{root}/sticky/d"),
        outcome(os.link, f"{root}/secret", "mine"),
        outcome(os.access, f"{root}/secret", os.R_OK),
    ]


# --- links ---


@case
def link() -> Any:
    make("a", b"x")
    os.mkdir("d")
    found = [
        outcome(os.link, "a", "b"),
        outcome(os.link, "a", "b"),
        outcome(os.link, "d", "e"),
        outcome(os.link, "x", "y"),
        outcome(os.link, "a", "a/b"),
        outcome(os.link, "a", "x/b"),
    ]
    os.symlink("a", "s")
    os.link("s", "t", follow_symlinks=False)
    return [*found, shape("a"), shape("b"), shape("t")]


@case
def unlink() -> Any:
    make("a")
    os.link("a", "b")
    os.mkdir("d")
    before = os.stat("b").st_ctime_ns
    time.sleep(0.012)
    found = [outcome(os.unlink, name) for name in ("a", "a", "d", "b/x", "x/y")]
    return [*found, shape("b"), os.stat("b").st_ctime_ns > before]


@case
def unlink_open() -> Any:
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.write(fd, b"still here")
    os.unlink("a")
    os.write(fd, b"!")
    found = [os.pread(fd, 20, 0).decode(), os.fstat(fd).st_nlink, os.fstat(fd).st_size]
    os.ftruncate(fd, 5)
    os.fchmod(fd, 0o600)
    found += [os.pread(fd, 20, 0).decode(), oct(os.fstat(fd).st_mode)]
    again = outcome(os.link, f"/proc/self/fd/{fd}", "b", follow_symlinks=True)
    os.close(fd)
    return [*found, again]


@case
def symlink() -> Any:
    os.symlink("t" * 4095, "long")
    return [
        outcome(os.symlink, "x", "long"),
        outcome(os.symlink, "t" * 4096, "longer"),
        outcome(os.symlink, "", "empty"),
        len(os.readlink("long")),
        shape("long"),
        outcome(os.readlink, "x"),
        outcome(os.readlink, "."),
    ]


# --- directories ---


@case
def mkdir_rmdir() -> Any:
    make("f")
    os.mkdir("d")
    os.mkdir("d/e")
    found = [shape("d"), shape(".")[1] - 1]
    found += [outcome(os.mkdir, name) for name in ("d", "f", "x/y", "f/y", ".", "..")]
    found += [outcome(os.rmdir, name) for name in ("d", "f", "x", "d/e/.", "d/e", "d", "d")]
    return [*found, shape(".")[1]]


@case
def removed_directory() -> Any:
    os.mkdir("d")
    fd = os.open("d", os.O_RDONLY)
    os.rmdir("d")
    found = [
        outcome(os.open, "x", os.O_CREAT | os.O_WRONLY, dir_fd=fd),
        outcome(os.mkdir, "x", dir_fd=fd),
        os.listdir(fd),
        os.fstat(fd).st_nlink,
    ]
    os.close(fd)
    return found


@case
def set_group_id_directory() -> Any:
    os.mkdir("d")
    if os.geteuid() == 0:
        os.chown("d", -1, 4242)
    os.chmod("d", 0o2775)
    os.mkdir("d/e")
    make("d/f")
    return shape("d/e"), shape("d/f"), shape("d")


@case
def listing() -> Any:
    for number in range(200):
        make(f"f{number}")
    names = sorted(os.listdir("."))
    with os.scandir(".") as entries:
        first = next(entries).name
        kinds = {entry.is_file() for entry in entries}
    return len(names), names[:3], bool(first), sorted(kinds)


@case
def listing_while_removing() -> Any:
    os.mkdir("d")
    for number in range(500):
        make(f"d/f{number}")
    with os.scandir("d") as entries:
        for entry in entries:
            os.unlink(entry.path)
    return outcome(os.rmdir, "d")


# --- rename ---


@case
def rename() -> Any:
    for name in ("a", "b"):
        make(name, name.encode())
    for name in ("d", "e", "full", "full/x"):
        os.mkdir(name)
    return [
        outcome(os.rename, "a", "d"),
        outcome(os.rename, "d", "a"),
        outcome(os.rename, "d", "full"),
        outcome(os.rename, "d", "d/x"),
        outcome(os.rename, "x", "y"),
        outcome(os.rename, "a", "x/y"),
        outcome(os.rename, "a", "a"),
        outcome(os.rename, "a", "b"),
        outcome(os.rename, "d", "e"),
        outcome(os.rename, "full/x", "x"),
        outcome(os.rename, "full", "e"),
        outcome(os.rename, "b/", "c"),
        outcome(os.rename, ".", "z"),
        sorted(os.listdir(".")),
        shape("b"),
        shape("e"),
        shape("."),
    ]


@case
def rename_of_one_file() -> Any:
    make("a")
    os.link("a", "b")
    return outcome(os.rename, "a", "b"), sorted(os.listdir(".")), shape("a")


@case
def rename_moves_directories() -> Any:
    os.mkdir("a")
    os.mkdir("b")
    os.mkdir("a/d")
    make("a/d/f")
    os.rename("a/d", "b/d")
    inside = os.stat("b/d/..").st_ino == os.stat("b").st_ino
    return shape("a"), shape("b"), inside, os.listdir("b/d")


# --- attributes ---


@case
def chmod() -> Any:
    make("a")
    found = []
    for mode in (0o7777, 0o4755, 0o2755, 0o1644, 0):
        os.chmod("a", mode)
        found.append(shape("a"))
    return [*found, outcome(os.chmod, "x", 0), outcome(os.chmod, "a/x", 0)]


@case
def chown() -> Any:
    make("a")
    found = []
    for mode in (0o6755, 0o6644, 0o2745):
        os.chmod("a", mode)
        found += [outcome(os.chown, "a", os.getuid(), os.getgid()), shape("a")]
    os.mkdir("d")
    os.chmod("d", 0o6755)
    found += [outcome(os.chown, "d", os.getuid(), os.getgid()), shape("d")]
    return [*found, outcome(os.chown, "a", 1, -1), outcome(os.chown, "a", -1, 1), shape("a")]


@case
def privileges_after_write() -> Any:
    found = []
    for mode in (0o6755, 0o4711, 0o2745):
        name = make(f"w{mode}", b"123")
        os.chmod(name, mode)
        fd = os.open(name, os.O_WRONLY)
        os.write(fd, b"x")
        os.close(fd)
        found.append(shape(name))
        os.chmod(name, mode)
        os.truncate(name, 1)
        found.append(shape(name))
    return found


@case
def truncate() -> Any:
    make("a", b"x" * 10000)
    os.mkdir("d")
    found = []
    for size in (5000, 20000, 3, 0, (1 << 40) + 1):
        os.truncate("a", size)
        with open("a", "rb") as file:
            found += [os.stat("a").st_size, sum(file.read(30000))]
    return [
        *found,
        outcome(os.truncate, "d", 0),
        outcome(os.truncate, "x", 0),
        outcome(os.truncate, "a", -1),
    ]


@case
def times() -> Any:
    make("a")
    os.utime("a", ns=(1_234_567_890_123_456_789, 987_654_321_987_654_321))
    one = os.stat("a")
    before = time.time_ns() - 10**8
    os.utime("a")
    two = os.stat("a")
    os.utime("a", ns=(-1_500_000_000, 5))
    three = os.stat("a")
    return [
        one.st_atime_ns,
        one.st_mtime_ns,
        two.st_mtime_ns > before,
        three.st_atime_ns,
        three.st_mtime_ns,
        three.st_ctime_ns > before,
    ]


@case
def times_of_directories() -> Any:
    os.mkdir("d")
    found = []

    def changes(call: Callable[..., Any], *args: Any) -> None:
        before = os.stat("d")
        time.sleep(0.012)
        call(*args)
        after = os.stat("d")
        found.append(
            [after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns]
        )

    changes(make, "d/a")
    changes(os.link, "d/a", "d/b")
    changes(os.rename, "d/a", "d/c")
    changes(os.unlink, "d/b")
    changes(os.mkdir, "d/e")
    changes(os.rmdir, "d/e")
    changes(os.chmod, "d", 0o700)
    changes(os.listdir, "d")
    return found


@case
def times_of_files() -> Any:
    make("a", b"abc")
    found = []

    def changes(call: Callable[..., Any], *args: Any) -> None:
        before = os.stat("a")
        time.sleep(0.012)
        call(*args)
        after = os.stat("a")
        found.append(
            [after.st_mtime_ns > before.st_mtime_ns, after.st_ctime_ns > before.st_ctime_ns]
        )

    fd = os.open("a", os.O_RDWR)
    changes(os.write, fd, b"x")
    changes(os.ftruncate, fd, 100)
    changes(os.fchmod, fd, 0o600)
    changes(os.link, "a", "b")
    changes(os.rename, "b", "c")
    changes(os.setxattr, "a", "user.x", b"y")
    os.close(fd)
    return found


@case
def mknod() -> Any:
    found = [
        outcome(os.mknod, "fifo", stat.S_IFIFO | 0o600),
        outcome(os.mknod, "sock", stat.S_IFSOCK | 0o600),
        outcome(os.mknod, "file", stat.S_IFREG | 0o600),
        outcome(os.mknod, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        outcome(os.mknod, "block", stat.S_IFBLK | 0o600, os.makedev(259, 65536)),
        outcome(os.mknod, "fifo", stat.S_IFIFO),
    ]
    return [*found, *(shape(name) for name in sorted(os.listdir(".")))]


@case
def attributes() -> Any:
    make("a")
    found = [
        outcome(os.getxattr, "a", "user.x"),
        outcome(os.setxattr, "a", "user.x", b"1"),
        outcome(os.setxattr, "a", "user.x", b"2", os.XATTR_CREATE),
        outcome(os.setxattr, "a", "user.y", b"2", os.XATTR_REPLACE),
        outcome(os.setxattr, "a", "user.empty", b""),
        outcome(os.setxattr, "a", "user.big", b"b" * 3000),
        outcome(os.setxattr, "a", "nonsense.x", b""),
        outcome(os.setxattr, "a", "user." + "n" * 251, b""),
        sorted(name for name in os.listxattr("a") if name.startswith("user.")),
        len(os.getxattr("a", "user.big")),
        outcome(os.removexattr, "a", "user.x"),
        outcome(os.removexattr, "a", "user.x"),
        outcome(os.setxattr, "a", "trusted.x", b"t"),
        outcome(os.getxattr, "a", "trusted.x"),
    ]
    os.symlink("a", "s")
    return [*found, outcome(os.setxattr, "s", "user.x", b"1", follow_symlinks=False)]


def acl(*entries: tuple[int, int, int]) -> bytes:
    packed = [
        tag.to_bytes(2, "little") + perm.to_bytes(2, "little") + who.to_bytes(4, "little")
        for tag, perm, who in entries
    ]
    return b"\2\0\0\0" + b"".join(packed)


NOBODY = 0xFFFFFFFF
LIST = acl((1, 6, NOBODY), (2, 7, 4321), (4, 4, NOBODY), (16, 7, NOBODY), (32, 0, NOBODY))
MINIMAL = acl((1, 6, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY))


@case
def access_lists() -> Any:
    make("a")
    name, default = "system.posix_acl_access", "system.posix_acl_default"
    found = [outcome(os.setxattr, "a", name, LIST), shape("a"), os.getxattr("a", name).hex()]
    os.chmod("a", 0o640)
    found += [shape("a"), os.getxattr("a", name).hex()]
    found += [outcome(os.setxattr, "a", name, MINIMAL), shape("a"), outcome(os.getxattr, "a", name)]
    found += [outcome(os.setxattr, "a", default, LIST), outcome(os.setxattr, "a", name, b"junk")]
    os.mkdir("d")
    os.setxattr("d", default, LIST)
    old = os.umask(0o077)  # the default list comes in its place
    make("d/f", mode=0o666)
    os.mkdir("d/e", 0o777)
    os.umask(old)
    found += [
        shape("d/f"),
        shape("d/e"),
        os.getxattr("d/f", name).hex(),
        os.getxattr("d/e", default).hex(),
    ]
    return [*found, outcome(os.removexattr, "d", default), outcome(os.removexattr, "d", default)]


# --- contents ---


@case
def sparse() -> Any:
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.pwrite(fd, b"end", 1 << 40)
    os.pwrite(fd, b"middle", 12345)
    found = [
        os.fstat(fd).st_size,
        os.pread(fd, 6, 12345).decode(),
        sum(os.pread(fd, 8192, 1 << 30)),
    ]
    found += [os.pread(fd, 10, 1 << 40).decode(), os.fstat(fd).st_blocks < 100]
    os.close(fd)
    return found


@case
def appending() -> Any:
    one = os.open("a", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    two = os.open("a", os.O_WRONLY | os.O_APPEND)
    for number in range(50):
        os.write((one, two)[number % 2], b"%02d" % number)
    os.close(one)
    os.close(two)
    with open("a", "rb") as file:
        return file.read().decode()


@case
def mapped() -> Any:
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.ftruncate(fd, 20000)
    with mmap.mmap(fd, 20000) as shared, mmap.mmap(fd, 20000, access=mmap.ACCESS_COPY) as private:
        shared[5000:5005] = b"hello"
        private[0:3] = b"xyz"
        found = [os.pread(fd, 5, 5000).decode(), os.pread(fd, 3, 0).decode()]
        os.pwrite(fd, b"world", 7000)
        found += [shared[7000:7005].decode(), private[7000:7005].decode()]
        shared.flush()
    os.close(fd)
    with open("a", "rb") as file:
        data = file.read()
    return [*found, len(data), data[5000:5005].decode()]


@case
def locks() -> Any:
    make("a")
    fd, other = os.open("a", os.O_RDWR), os.open("a", os.O_RDWR)
    fcntl.flock(fd, fcntl.LOCK_EX)
    found = [outcome(fcntl.flock, other, fcntl.LOCK_EX | fcntl.LOCK_NB)]
    fcntl.lockf(fd, fcntl.LOCK_EX, 10, 0)
    pid = os.fork()
    if not pid:
        os._exit(outcome(fcntl.lockf, other, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 5) == "EAGAIN")
    found.append(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os.close(fd)
    os.close(other)
    return found


@case
def limits() -> Any:
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    found = [
        outcome(os.pread, fd, 10, 1 << 62) == "done",
        outcome(os.read, os.open("a", os.O_WRONLY), 1),
        outcome(os.write, os.open("a", os.O_RDONLY), b"x"),
        outcome(os.pwrite, fd, b"x", (1 << 63) - 1),
    ]
    os.close(fd)
    return found


@case
def fifo() -> Any:
    os.mkfifo("p")
    fd = os.open("p", os.O_RDWR)
    os.write(fd, b"through")
    data = os.read(fd, 20).decode()
    os.close(fd)
    return data, outcome(opened, "p", os.O_WRONLY | os.O_NONBLOCK)
