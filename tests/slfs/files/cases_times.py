"""Cases of times: which call changes which time of what, and what a failed one leaves alone."""

import os
import stat
import time
from collections.abc import Callable
from typing import Any

from tests.slfs.files.cases import LIST, case, make, opened, outcome

PAUSE_SECONDS = 0.012  # more than the kernel's clock of times takes, at 100 ticks a second
NOW, OMIT = (1 << 30) - 1, (1 << 30) - 2
Times = dict[str, tuple[int, int]]


def times(names: tuple[str, ...]) -> Times:
    found = {}
    for name in names:
        if os.path.lexists(name):
            one = os.lstat(name)
            found[name] = (one.st_mtime_ns, one.st_ctime_ns)
    return found


def changed(names: tuple[str, ...], call: Callable[..., Any], *args: Any, **more: Any) -> Any:
    """What came of a call, and of which names it moved the times: m, c."""
    before = times(names)
    time.sleep(PAUSE_SECONDS)
    result = outcome(call, *args, **more)
    after = times(names)
    moved = {
        name: "".join(
            letter
            for letter, old, new in zip("mc", before[name], after[name], strict=True)
            if new > old
        )
        for name in before
        if name in after
    }
    return [result if isinstance(result, str) else "value", moved]


@case
def times_of_parents() -> Any:
    os.mkdir("d")
    os.mkdir("e")
    make("d/f", b"x")
    make("d/g")
    os.mkdir("d/s")
    both = ("d", "e", "d/f", "d/s", "e/h")
    return [
        changed(both, make, "d/new"),
        changed(both, make, "d/new"),
        changed(both, opened, "d/new", os.O_CREAT | os.O_WRONLY),
        changed(both, opened, "d/f", os.O_CREAT | os.O_WRONLY | os.O_TRUNC),
        changed(both, os.mkdir, "d/sub"),
        changed(both, os.mkdir, "d/sub"),
        changed(both, os.rmdir, "d/sub"),
        changed(both, os.rmdir, "d/sub"),
        changed(both, os.symlink, "x", "d/link"),
        changed(both, os.symlink, "x", "d/link"),
        changed(both, os.mkfifo, "d/fifo"),
        changed(both, os.link, "d/f", "e/h"),
        changed(both, os.link, "d/f", "e/h"),
        changed(both, os.rename, "d/g", "d/f2"),
        changed(both, os.rename, "d/f2", "e/f2"),
        changed(both, os.rename, "d/missing", "e/f2"),
        changed(both, os.rename, "e/f2", "d/new"),
        changed(both, os.rename, "d/s", "e/s"),
        changed(both, os.rename, "e/s", "d/s"),
        changed(both, os.rename, "d/f", "e/h"),
        changed(both, os.unlink, "d/link"),
        changed(both, os.unlink, "d/link"),
        changed(both, os.unlink, "e/h"),
    ]


@case
def times_of_a_file() -> Any:
    make("f", b"0123456789")
    fd = os.open("f", os.O_RDWR)
    one = ("f",)
    found = [
        changed(one, os.write, fd, b"x"),
        changed(one, os.write, fd, b""),
        changed(one, os.pread, fd, 5, 0),
        changed(one, os.ftruncate, fd, 5),
        changed(one, os.ftruncate, fd, 5),
        changed(one, os.ftruncate, fd, 50),
        changed(one, os.truncate, "f", 50),
        changed(one, os.truncate, "f", 20),
        changed(one, opened, "f", os.O_WRONLY | os.O_TRUNC),
        changed(one, opened, "f", os.O_WRONLY | os.O_TRUNC),
        changed(one, opened, "f", os.O_WRONLY),
        changed(one, os.fchmod, fd, 0o640),
        changed(one, os.fchmod, fd, 0o640),
        changed(one, os.chmod, "f", 0o600),
        changed(one, os.chown, "f", -1, -1),
        changed(one, os.chown, "f", os.getuid(), -1),
        changed(one, os.chown, "f", -1, os.getgid()),
        changed(one, os.setxattr, "f", "user.a", b"1"),
        changed(one, os.setxattr, "f", "user.a", b"2"),
        changed(one, os.getxattr, "f", "user.a"),
        changed(one, os.removexattr, "f", "user.a"),
        changed(one, os.removexattr, "f", "user.a"),
        changed(one, os.setxattr, "f", "system.posix_acl_access", LIST),
        changed(one, os.utime, "f"),
        changed(one, os.utime, "f", ns=(3, 3)),
        changed(one, os.fsync, fd),
        changed(one, os.link, "f", "g"),
        changed(one, os.unlink, "g"),
        changed(one, os.rename, "f", "f"),
    ]
    os.close(fd)
    return found


@case
def times_of_a_directory_itself() -> Any:
    os.mkdir("d")
    one = ("d", ".")
    return [
        changed(one, os.chmod, "d", 0o700),
        changed(one, os.chown, "d", os.getuid(), os.getgid()),
        changed(one, os.setxattr, "d", "user.a", b"1"),
        changed(one, os.utime, "d"),
        changed(one, os.listdir, "d"),
        changed(one, os.rename, "d", "d"),
    ]


@case
def times_of_what_is_replaced() -> Any:
    make("a")
    make("b")
    os.link("b", "c")
    return changed(("a", "b", "c", "."), os.rename, "a", "b")


@case
def times_of_a_symlink() -> Any:
    make("f")
    os.symlink("f", "l")
    one = ("f", "l")
    found = [
        changed(one, os.utime, "l", follow_symlinks=False),
        changed(one, os.utime, "l"),
        changed(one, os.lchown, "l", os.getuid(), os.getgid()),
        changed(one, os.chmod, "l", 0o600),
        changed(one, os.readlink, "l"),
    ]
    os.utime("l", ns=(5, 7), follow_symlinks=False)
    return [*found, os.lstat("l").st_mtime_ns, os.stat("f").st_mtime_ns > 7]


def _utimensat(name: str, access_ns: int, change_ns: int) -> list[Any]:
    """utimensat(2) with NOW and OMIT, which os.utime does not pass on: by touch(1)'s two options."""
    words = {NOW: "now", OMIT: ""}
    done = []
    for option, value in (("-a", access_ns), ("-m", change_ns)):
        if words.get(value) != "":
            when = words.get(value) or f"@{value // 10**9}.{value % 10**9:09}"
            pid = os.spawnlp(os.P_WAIT, "touch", "touch", "-c", option, "-d", when, name)
            done.append(pid)
    return done


@case
def times_set_apart() -> Any:
    """One time alone; before 1970; beyond 2038 and 2106."""
    make("f")
    os.utime("f", ns=(10**18, 10**18))
    found: list[Any] = []
    for access, change in ((5 * 10**17 + 1, OMIT), (OMIT, 6 * 10**17 + 2), (OMIT, OMIT)):
        found += [_utimensat("f", access, change)]
        one = os.stat("f")
        found += [one.st_atime_ns, one.st_mtime_ns]
    for seconds in (0, 1, -1, -2_000_000_000, (1 << 31) - 1, 1 << 31, 1 << 32, (1 << 32) + 5):
        os.utime("f", ns=(seconds * 10**9 + 123_456_789, seconds * 10**9 + 999_999_999))
        one = os.stat("f")
        found += [one.st_atime_ns, one.st_mtime_ns]
    before = os.stat("f").st_atime_ns
    found.append(_utimensat("f", NOW, OMIT))
    one = os.stat("f")
    return [*found, one.st_atime_ns > before or one.st_atime_ns > 10**18, one.st_mtime_ns]


@case
def times_by_another() -> Any:
    """Now is for whoever may write, a time of one's choice for the owner."""
    root = "../../by-root"
    found = []
    for name in ("timed", "timed-by-all", "open", "sticky"):
        path = f"{root}/{name}"
        found += [
            outcome(os.utime, path),
            outcome(os.utime, path, ns=(1, 1)),
            stat.S_IFMT(os.stat(path).st_mode),
        ]
    return found
