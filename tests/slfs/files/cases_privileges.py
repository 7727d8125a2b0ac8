"""Cases of owners, modes and lists: who may do what, and which bits a change takes away."""

import os
import stat
from typing import Any

from tests.slfs.files.cases import acl, case, make, opened, outcome, shape

ROOT = "../../by-root"
NOBODY = 0xFFFFFFFF
ACCESS, DEFAULT = "system.posix_acl_access", "system.posix_acl_default"


@case
def privileges_of_root_s_files() -> Any:
    """Whoever else writes to a set-user-ID or set-group-ID file, or cuts it, takes that away."""
    found = []
    for name in ("w4777", "w2777", "w2767", "w6766"):
        path = f"{ROOT}/{name}"
        found.append(shape(path))
        fd = os.open(path, os.O_RDWR)
        os.pread(fd, 1, 0)
        found.append(shape(path))
        os.write(fd, b"x")
        os.close(fd)
        found.append(shape(path))
        for change in (
            lambda path: os.truncate(path, 1),
            lambda path: opened(path, os.O_TRUNC | os.O_WRONLY),
        ):
            if os.getuid() == 0:
                os.chmod(path, int(name[1:], 8))
            found += [outcome(change, path), shape(path)]
    return found


@case
def privileges_kept_and_lost() -> Any:
    found: list[Any] = []
    for mode in (0o4755, 0o2755, 0o6755, 0o2745, 0o6644, 0o1755):
        name = make(f"f{mode:o}", b"123")
        calls = (
            lambda: os.chown(name, -1, -1),  # noqa: B023 - called at once
            lambda: os.chown(name, os.getuid(), -1),  # noqa: B023
            lambda: os.chown(name, -1, os.getgid()),  # noqa: B023
            lambda: os.truncate(name, 2),  # noqa: B023
            lambda: os.truncate(name, 2),  # noqa: B023
            lambda: opened(name, os.O_WRONLY | os.O_TRUNC),  # noqa: B023
            lambda: opened(name, os.O_WRONLY),  # noqa: B023
            lambda: os.link(name, f"{name}.link"),  # noqa: B023
            lambda: os.utime(name),  # noqa: B023
            lambda: os.setxattr(name, "user.x", b""),  # noqa: B023
        )
        for call in calls:
            os.chmod(name, mode)
            found.append([outcome(call), oct(os.stat(name).st_mode)])
    return found


@case
def modes_of_directories() -> Any:
    found = []
    for mode in (0o7777, 0o2755, 0o4755, 0o1777, 0o6700):
        os.mkdir(f"d{mode:o}")
        os.chmod(f"d{mode:o}", mode)
        found.append(
            [shape(f"d{mode:o}"), outcome(os.chown, f"d{mode:o}", -1, -1), shape(f"d{mode:o}")]
        )
        os.mkdir(f"d{mode:o}/e", 0o7777)
        found.append(shape(f"d{mode:o}/e"))
    return found


@case
def groups() -> Any:
    """One may give a file to a group that one is in, and to no other."""
    make("f")
    other = os.getuid() + 1
    found = [outcome(os.chown, "f", -1, other), shape("f")]
    found += [outcome(os.chmod, "f", 0o2755), shape("f")]
    found += [outcome(os.chown, "f", -1, 5555), outcome(os.chown, "f", 5555, -1), shape("f")]
    return found


@case
def set_group_id_of_a_stranger_s_group() -> Any:
    """In a set-group-ID directory of a group that one is not in."""
    place = f"{ROOT}/of-group"
    names = [f"{place}/f{os.getuid()}", f"{place}/d{os.getuid()}", f"{place}/p{os.getuid()}"]
    make(names[0], mode=0o2755)
    os.mkdir(names[1], 0o2755)
    os.mkfifo(names[2], 0o2755)
    found = [shape(name) for name in names]
    os.chmod(names[0], 0o2755)
    os.chmod(names[1], 0o2755)
    return [*found, *(shape(name) for name in names)]


@case
def sticky_directories() -> Any:
    """In a sticky directory of root's: one's own files are one's own."""
    place = f"{ROOT}/sticky"
    mine = f"{place}/mine{os.getuid()}"
    make(mine)
    os.mkdir(f"{mine}.d")
    return [
        outcome(os.rename, f"{place}/f", f"{place}/taken"),
        outcome(os.rename, mine, f"{place}/f"),
        outcome(os.rename, f"{place}/taken", f"{place}/f"),
        outcome(os.rename, mine, f"{mine}.2"),
        outcome(os.rename, f"{mine}.d", f"{place}/d"),
        outcome(os.link, f"{mine}.2", mine),
        outcome(os.unlink, f"{mine}.2"),
        outcome(os.unlink, f"{place}/f"),
        outcome(os.rmdir, f"{mine}.d"),
        outcome(opened, f"{place}/f", os.O_CREAT | os.O_WRONLY),
        outcome(opened, mine, os.O_CREAT | os.O_WRONLY),
    ]


@case
def of_root_s_directories() -> Any:
    """What lies in a directory that root alone may enter, and one where all may write."""
    found: list[Any] = []
    for path in (f"{ROOT}/closed/f", f"{ROOT}/closed/x", f"{ROOT}/open/d", f"{ROOT}/closed"):
        found += [
            outcome(os.stat, path) == "done",
            outcome(os.access, path, os.R_OK),
            outcome(os.chmod, path, 0o755),
            outcome(os.chown, path, -1, os.getgid()),
            outcome(os.setxattr, path, "user.x", b""),
            outcome(os.getxattr, path, "user.y"),
            outcome(os.listxattr, path) == "done",
            outcome(os.rename, path, f"moved{len(found)}"),
            outcome(os.truncate, path, 0),
        ]
    return found


@case
def moving_a_directory_needs_its_write_bit() -> Any:
    os.makedirs("a/d")
    os.mkdir("b")
    os.chmod("a/d", 0o500)
    found = [outcome(os.rename, "a/d", "a/e"), outcome(os.rename, "a/e", "b/e")]
    return [*found, sorted(os.listdir("a") + os.listdir("b"))]


@case
def devices() -> Any:
    found = [
        outcome(os.mknod, "null", stat.S_IFCHR | 0o666, os.makedev(1, 3)),
        outcome(os.mknod, "none", stat.S_IFCHR | 0o666, os.makedev(251, 77)),
        outcome(os.mknod, "disk", stat.S_IFBLK | 0o666, os.makedev(251, 77)),
        outcome(os.mknod, "white", stat.S_IFCHR | 0o666, 0),
        outcome(os.mknod, "dir", stat.S_IFDIR | 0o755),
        outcome(os.mknod, "link", stat.S_IFLNK | 0o755),
    ]
    for name in sorted(os.listdir(".")):
        found += [shape(name), outcome(opened, name, os.O_RDONLY | os.O_NONBLOCK)]
    if os.path.exists("null"):
        fd = os.open("null", os.O_RDWR)
        found += [os.write(fd, b"gone"), len(os.read(fd, 4))]
        os.close(fd)
    return found


def text(value: Any) -> str:
    return value if isinstance(value, str) else "value"


@case
def attributes_of_each_kind() -> Any:
    make("f")
    os.mkdir("d")
    os.mkfifo("p")
    os.symlink("f", "l")
    found: list[Any] = []
    for name in ("f", "d", "p", "l"):
        for space in ("user", "trusted", "security", "system", "other", "user."):
            found += [
                outcome(os.setxattr, name, f"{space}.x", b"1", follow_symlinks=False),
                text(outcome(os.getxattr, name, f"{space}.x", follow_symlinks=False)),
                outcome(os.removexattr, name, f"{space}.x", follow_symlinks=False),
            ]
    os.chmod("f", 0o444)
    found += [outcome(os.setxattr, "f", "user.ro", b"1"), outcome(os.setxattr, "f", "user.", b"1")]
    os.chmod("f", 0o000)
    return [*found, outcome(os.getxattr, "f", "user.ro"), outcome(os.listxattr, "f") == "EACCES"]


@case
def attribute_sizes() -> Any:
    make("f")
    found = [
        outcome(os.setxattr, "f", "user." + "n" * 250, b""),
        outcome(os.setxattr, "f", "user." + "n" * 251, b""),
        outcome(os.setxattr, "f", "user.x", b"v" * 65537),
        outcome(os.setxattr, "f", "user.x", b"a"),
        outcome(os.setxattr, "f", "user.x", b"bb"),
        os.getxattr("f", "user.x").decode(),
        outcome(os.setxattr, "f", "user.x", b"", os.XATTR_CREATE),
        outcome(os.setxattr, "f", "user.new", b"", os.XATTR_REPLACE),
        outcome(os.setxattr, "f", "user.z", bytes(range(256))),
        os.getxattr("f", "user.z").hex(),
    ]
    os.link("f", "g")
    return [*found, sorted(name for name in os.listxattr("g") if name.startswith("user."))]


@case
def list_grants_and_refuses() -> Any:
    """An access list of the owner's against oneself is none; a mask is the group bits."""
    make("f", b"x")
    uid = os.getuid()
    found = []
    for entries in (
        ((1, 0, NOBODY), (2, 7, uid), (4, 7, NOBODY), (16, 7, NOBODY), (32, 7, NOBODY)),
        ((1, 4, NOBODY), (4, 0, NOBODY), (8, 6, 4242), (16, 6, NOBODY), (32, 0, NOBODY)),
        ((1, 6, NOBODY), (2, 6, 77), (4, 4, NOBODY), (16, 4, NOBODY), (32, 0, NOBODY)),
    ):
        found += [
            outcome(os.setxattr, "f", ACCESS, acl(*entries)),
            shape("f"),
            outcome(opened, "f", os.O_RDONLY),
            outcome(opened, "f", os.O_RDWR),
            outcome(os.access, "f", os.W_OK),
        ]
    os.chmod("f", 0o604)
    found.append(os.getxattr("f", ACCESS).hex())
    bad = (
        acl((1, 6, NOBODY), (32, 0, NOBODY)),
        acl((1, 6, NOBODY), (2, 6, 77), (4, 4, NOBODY), (32, 0, NOBODY)),
        acl((1, 6, NOBODY), (4, 4, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY)),
        acl((4, 4, NOBODY), (1, 6, NOBODY), (32, 0, NOBODY)),
        acl((1, 9, NOBODY), (4, 4, NOBODY), (32, 0, NOBODY)),
        b"",
        b"\2\0\0\0",
    )
    found += [outcome(os.setxattr, "f", ACCESS, value) for value in bad]
    found += [
        outcome(os.removexattr, "f", ACCESS),
        outcome(os.removexattr, "f", ACCESS),
        shape("f"),
    ]
    return found


@case
def default_lists() -> Any:
    os.mkdir("d")
    os.chmod("d", 0o755)
    value = acl((1, 7, NOBODY), (2, 5, 77), (4, 5, NOBODY), (16, 7, NOBODY), (32, 1, NOBODY))
    old = os.umask(0o077)
    found = [outcome(os.setxattr, "d", DEFAULT, value), shape("d")]
    os.mkdir("d/e", 0o750)
    make("d/f", mode=0o640)
    os.mkfifo("d/p", 0o666)
    os.symlink("x", "d/l")
    os.mknod("d/n", stat.S_IFREG | 0o600)
    os.umask(old)
    for name in ("d/e", "d/f", "d/p", "d/l", "d/n"):
        found.append(shape(name))
        for attribute in (ACCESS, DEFAULT):
            held = outcome(os.getxattr, name, attribute, follow_symlinks=False)
            found.append(held if isinstance(held, str) else "held")
    return found
