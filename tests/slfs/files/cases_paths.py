"""Cases of names and paths: what each call answers for a path that is wrong in each of the ways."""

import ctypes
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

from tests.slfs.files.cases import NAME, case, make, names_in, opened, outcome, shape

RENAME_NOREPLACE, RENAME_EXCHANGE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)

# Each call on one path. `{}` is a file where the call wants a second, existing one.
CALLS: dict[str, Callable[[str], Any]] = {
    "open": lambda path: opened(path, os.O_RDONLY),
    "open for writing": lambda path: opened(path, os.O_WRONLY),
    "create": lambda path: opened(path, os.O_WRONLY | os.O_CREAT),
    "create alone": lambda path: opened(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL),
    "open directory": lambda path: opened(path, os.O_DIRECTORY),
    "truncate": lambda path: os.truncate(path, 1),
    "stat": lambda path: os.stat(path) and None,
    "lstat": lambda path: os.lstat(path) and None,
    "readlink": os.readlink,
    "chmod": lambda path: os.chmod(path, 0o700),
    "chown": lambda path: os.chown(path, os.getuid(), os.getgid()),
    "lchown": lambda path: os.lchown(path, os.getuid(), os.getgid()),
    "utime": lambda path: os.utime(path),
    "access": lambda path: os.access(path, os.F_OK),
    "chdir": lambda path: _change_directory(path),
    "listdir": names_in,
    "getxattr": lambda path: os.getxattr(path, "user.none"),
    "setxattr": lambda path: os.setxattr(path, "user.some", b""),
    "listxattr": lambda path: os.listxattr(path),
    "link from": lambda path: os.link(path, "linked"),
    "link to": lambda path: os.link("file", path),
    "symlink": lambda path: os.symlink("x", path),
    "mkdir": os.mkdir,
    "mkfifo": os.mkfifo,
    "mknod": lambda path: os.mknod(path, stat.S_IFREG | 0o600),
    "rename from": lambda path: os.rename(path, "renamed"),
    "rename to": lambda path: os.rename("file", path),
    "rename a directory to": lambda path: os.rename("dir", path),
    "unlink": os.unlink,
    "rmdir": os.rmdir,
    "bind": lambda path: _bind(path),
}


def _change_directory(path: str) -> None:
    fd = os.open(".", os.O_RDONLY)
    try:
        os.chdir(path)
        os.fchdir(fd)
    finally:
        os.close(fd)


def _bind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path)


def furnish() -> None:
    """One of each kind."""
    make("file", b"contents")
    os.mkdir("dir")
    os.mkdir("full")
    make("full/file")
    os.mkfifo("fifo")
    _bind("socket")
    os.symlink("file", "to-file")
    os.symlink("dir", "to-dir")
    os.symlink("missing", "to-nothing")
    os.symlink("loop", "loop")
    os.mkdir("closed")
    make("closed/file")
    os.mkdir("closed/dir")


def on_each_call(path: str) -> dict[str, Any]:
    """What each call makes of a path, each time in a directory furnished anew."""
    found = {}
    for index, (name, call) in enumerate(CALLS.items()):
        os.mkdir(str(index))
        os.chdir(str(index))
        furnish()
        os.chmod("closed", 0o600)
        found[name] = outcome(call, path)
        found[f"{name}, then"] = [(one, oct(os.lstat(one).st_mode)) for one in names_in(".")]
        os.chmod("closed", 0o700)
        os.chdir("..")
    return found


def _case_of(title: str, path: str) -> None:
    def run() -> Any:
        return on_each_call(path)

    run.__name__ = f"path_{title}"
    case(run)


for _title, _path in {
    "to_a_file": "file",
    "to_a_directory": "dir",
    "to_a_full_directory": "full",
    "to_nothing": "missing",
    "below_nothing": "missing/x",
    "below_a_file": "file/x",
    "below_a_fifo": "fifo/x",
    "file_with_a_slash": "file/",
    "directory_with_a_slash": "dir/",
    "nothing_with_a_slash": "missing/",
    "link_with_a_slash": "to-dir/",
    "link_to_a_file": "to-file",
    "link_to_a_directory": "to-dir",
    "link_to_nothing": "to-nothing",
    "loop": "loop",
    "below_a_loop": "loop/x",
    "dot": ".",
    "dot_dot": "dir/..",
    "dir_dot": "dir/.",
    "empty": "",
    "fifo_itself": "to-fifo",
    "socket": "socket",
    "long_name": NAME,
    "too_long_name": NAME + "n",
    "below_too_long_name": NAME + "n/x",
    "longest_path": "./" * 2045 + "file",
    "too_long_path": "./" * 2046 + "file",
    "in_a_closed_directory": "closed/file",
    "missing_in_a_closed_directory": "closed/missing",
    "directory_in_a_closed_one": "closed/dir",
}.items():
    _case_of(_title, _path)


@case
def path_of_symlinks() -> Any:
    """Forty links in a row are followed, forty-one are not."""
    make("l0")
    for number in range(1, 43):
        os.symlink(f"l{number - 1}", f"l{number}")
    return [outcome(opened, f"l{number}", os.O_RDONLY) for number in (1, 39, 40, 41, 42)]


def rename2(old: str, new: str, flags: int) -> Any:
    if _libc.renameat2(-100, old.encode(), -100, new.encode(), flags):
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return "done"


@case
def rename_flags() -> Any:
    furnish()
    os.mkdir("dir/below")
    both = RENAME_NOREPLACE | RENAME_EXCHANGE
    found = [
        outcome(rename2, "file", "dir", RENAME_NOREPLACE),
        outcome(rename2, "file", "file", RENAME_NOREPLACE),
        outcome(rename2, "file", "to-nothing", RENAME_NOREPLACE),
        outcome(rename2, "missing", "new", RENAME_NOREPLACE),
        outcome(rename2, "file", "new", RENAME_NOREPLACE),
        outcome(rename2, "new", "missing", RENAME_EXCHANGE),
        outcome(rename2, "new", "full", RENAME_EXCHANGE),
        outcome(rename2, "dir", "dir/below", RENAME_EXCHANGE),
        outcome(rename2, "dir/below", "dir", RENAME_EXCHANGE),
        outcome(rename2, "to-file", "full", RENAME_EXCHANGE),
        outcome(rename2, "fifo", "dir/below", RENAME_EXCHANGE),
        outcome(rename2, "fifo", "socket", both),
        outcome(rename2, "fifo", "socket", 1 << 10),
        outcome(rename2, "new", "new", RENAME_EXCHANGE),
    ]
    return [*found, [(name, shape(name)) for name in names_in(".")], shape("dir/below")]


@case
def rename_over_each_kind() -> Any:
    kinds = ("file", "dir", "full", "fifo", "socket", "to-file", "to-dir", "to-nothing")
    found = []
    for old in kinds:
        for new in kinds:
            place = f"{old} {new}"
            os.mkdir(place)
            os.chdir(place)
            furnish()
            found.append([place, outcome(os.rename, old, new), names_in("."), shape(".")[1]])
            os.chdir("..")
    return found


@case
def rename_into_itself() -> Any:
    os.makedirs("a/b/c")
    return [
        outcome(os.rename, "a", "a/b"),
        outcome(os.rename, "a", "a/x"),
        outcome(os.rename, "a", "a/b/c/x"),
        outcome(os.rename, "a/b/c", "a"),
        outcome(os.rename, "a/b", "a"),
        names_in("a"),
    ]


@case
def links_of_each_kind() -> Any:
    furnish()
    kinds = ("file", "dir", "fifo", "socket", "to-file", "to-nothing", "loop")
    found = []
    for name in kinds:
        found.append(outcome(os.link, name, f"{name}.2", follow_symlinks=False))
        if os.path.lexists(f"{name}.2"):
            found.append([shape(name), os.lstat(name).st_ino == os.lstat(f"{name}.2").st_ino])
    return found


@case
def link_of_an_open_unlinked_file() -> Any:
    fd = os.open("a", os.O_CREAT | os.O_RDWR)
    os.link("a", "b")
    os.unlink("a")
    os.unlink("b")
    found = [os.fstat(fd).st_nlink, outcome(os.link, f"/proc/self/fd/{fd}", "c")]
    os.close(fd)
    return found


@case
def kinds_in_a_listing() -> Any:
    furnish()
    with os.scandir(".") as entries:
        return sorted(
            [
                entry.name,
                entry.is_dir(follow_symlinks=False),
                entry.is_file(follow_symlinks=False),
                entry.is_symlink(),
                entry.inode() == os.lstat(entry.name).st_ino,
            ]
            for entry in entries
        )


@case
def names_of_all_bytes() -> Any:
    """Every byte but NUL and the slash may stand in a name."""
    odd = bytes(byte for byte in range(1, 256) if byte != ord("/"))
    name = odd[:250]
    os.close(os.open(name, os.O_CREAT | os.O_WRONLY))
    os.mkdir(b"\xff\xfe")
    return sorted(one.hex() for one in os.listdir(b".")), os.path.exists(name)


@case
def deep_paths() -> Any:
    """A path longer than PATH_MAX, made step by step."""
    start = os.open(".", os.O_RDONLY)
    for _ in range(20):
        os.mkdir(NAME)
        os.chdir(NAME)
    found = [outcome(opened, "f", os.O_CREAT | os.O_WRONLY), outcome(os.getcwd) != "done"]
    os.unlink("f")
    for _ in range(20):
        os.chdir("..")
        os.rmdir(NAME)
    found.append(os.path.samestat(os.stat("."), os.fstat(start)))
    os.close(start)
    return found


@case
def opened_in_each_way() -> Any:
    """O_* together, on each kind."""
    furnish()
    ways = {
        "path": os.O_PATH,
        "path, no follow": os.O_PATH | os.O_NOFOLLOW,
        "path of a directory": os.O_PATH | os.O_DIRECTORY,
        "no follow": os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK,
        "directory": os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK,
        "reading": os.O_RDONLY | os.O_NONBLOCK,
        "writing": os.O_WRONLY | os.O_NONBLOCK,
        "both": os.O_RDWR | os.O_NONBLOCK,
        "truncating to read": os.O_RDONLY | os.O_TRUNC | os.O_NONBLOCK,
        "appending and truncating": os.O_WRONLY | os.O_APPEND | os.O_TRUNC | os.O_NONBLOCK,
        "creating": os.O_RDWR | os.O_CREAT | os.O_NONBLOCK,
        "creating a directory": os.O_RDWR | os.O_CREAT | os.O_DIRECTORY,
        "creating alone": os.O_RDWR | os.O_CREAT | os.O_EXCL,
        "without times": os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK,
        "synchronous": os.O_WRONLY | os.O_SYNC | os.O_NONBLOCK,
    }
    kinds = ("file", "dir", "fifo", "socket", "to-file", "to-dir", "loop", "closed")
    found = {}
    for kind in kinds:
        for name, flags in ways.items():
            found[f"{kind} {name}"] = outcome(opened, kind, flags)
    return found, os.stat("file").st_size


@case
def removed_working_directory() -> Any:
    os.mkdir("d")
    os.chdir("d")
    os.rmdir("../d")
    found = [
        outcome(os.mkdir, "x"),
        outcome(opened, "x", os.O_CREAT | os.O_WRONLY),
        outcome(os.symlink, "a", "x"),
        outcome(os.mkfifo, "x"),
        outcome(os.listdir, "."),
        outcome(os.stat, "..") == "done",
        os.stat(".").st_nlink,
        outcome(os.rmdir, "."),
    ]
    os.chdir("..") if os.path.exists("..") else None
    return found


@case
def directories_of_many_links() -> Any:
    for number in range(300):
        os.mkdir(f"d{number}")
    found = [os.stat(".").st_nlink]
    for number in range(0, 300, 2):
        os.rmdir(f"d{number}")
    os.rename("d1", "d3")
    return [*found, os.stat(".").st_nlink]
