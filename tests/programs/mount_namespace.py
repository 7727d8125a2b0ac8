"""A mount namespace of its own (CASE[0]), as unshare(1) and service managers make them, and what is in it.

Everything that a program sees of its mounts is compared: mountinfo but for the numbers, the files of each tmpfs, and
what its own descriptors, directories and mappings lead to.
"""

import ctypes
import hashlib
import mmap
import os
import re
import socket
import stat
import subprocess
import sys
from functools import partial

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

NEW_NS = 0x00020000
PLACE = os.path.abspath("place")


def run(*words: str) -> None:
    subprocess.run(words, check=True)


def leave(*options: str) -> None:
    """Go on in a new namespace, by unshare(1), which is what people use."""
    if "inside" not in CASE:
        os.makedirs(PLACE, exist_ok=True)
        arguments = [sys.executable, "-S", "-P", *sys.argv, "inside"]
        os.execvp("unshare", ["unshare", "--mount", *options, "--", *arguments])


def mounts() -> list[str]:
    """mountinfo without the numbers of mounts and devices; peer groups by the place of their first mount."""
    with open("/proc/self/mountinfo", encoding="utf-8") as file:
        lines = [line.rstrip("\n").split(" ") for line in file]
    points = {words[0]: words[4] for words in lines}
    groups: dict[str, str] = {}
    found = []
    for words in sorted(lines, key=lambda words: (words[4], points.get(words[1], ""))):
        rest = re.sub(
            r"(shared|master):(\d+)",
            partial(name_of, groups, words[4]),
            " ".join(words[5:]),
        )
        found.append(f"{points.get(words[1], '')} {words[3]} {words[4]} {rest}")
    return sorted(found)


def name_of(groups: dict[str, str], point: str, match: "re.Match[str]") -> str:
    return f"{match[1]}:{groups.setdefault(match[2], point)}"


def tree(top: str) -> list[tuple[object, ...]]:
    """All that is below, on that filesystem."""
    found: list[tuple[object, ...]] = []
    device = os.lstat(top).st_dev
    for folder, folders, files in os.walk(top):
        folders[:] = sorted(one for one in folders if os.lstat(f"{folder}/{one}").st_dev == device)
        for name in sorted([*folders, *files, "."]):
            path = f"{folder}/{name}"
            found.append((path, *facts(path)))
    return found


def facts(path: str) -> tuple[object, ...]:
    status = os.lstat(path)
    content: object = None
    if stat.S_ISLNK(status.st_mode):
        content = os.readlink(path)
    elif stat.S_ISREG(status.st_mode):
        with open(path, "rb") as file:
            content = hashlib.sha256(file.read()).hexdigest()
    names = os.listxattr(path, follow_symlinks=False)
    attributes = {name: os.getxattr(path, name, follow_symlinks=False) for name in names}
    is_folder = stat.S_ISDIR(status.st_mode)
    return (
        oct(status.st_mode), status.st_uid, status.st_gid, status.st_rdev, status.st_mtime_ns,
        0 if is_folder else status.st_nlink, 0 if is_folder else status.st_size, content, attributes,
    )  # fmt: skip


def fill(top: str) -> None:
    """One of everything a tmpfs may hold."""
    os.makedirs(f"{top}/a/b")
    with open(f"{top}/a/file", "wb") as file:
        file.write(b"x" * 5000)
    with open(f"{top}/a/page", "wb") as file:
        file.write(b"p" * 4096)
    with open(f"{top}/a/holes", "wb") as file:
        file.write(b"begin")
        file.seek(1 << 20)
        file.write(b"end")
    open(f"{top}/empty", "wb").close()
    os.link(f"{top}/a/file", f"{top}/a/b/same")
    os.symlink("../a/file", f"{top}/a/link")
    os.mkfifo(f"{top}/fifo", 0o640)
    os.mknod(f"{top}/null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.chown(f"{top}/a/file", 12, 34)
    os.chmod(f"{top}/a/file", 0o4751)
    os.setxattr(f"{top}/a/page", "trusted.word", b"value")
    os.chmod(f"{top}/a/b", 0o1777)
    os.utime(f"{top}/a/b", ns=(1, 123456789))
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(f"{top}/left")


def word(path: str) -> str:
    with open(path, encoding="ascii") as file:
        return file.read()


def compare(before: list[object], top: str = "") -> None:
    """The namespace is what it was; looked at through `mounts` and each tmpfs of its own, or what is below `top`."""
    now = seen(top)
    expect("more", [one for one in now if one not in before], [])
    expect("less", [one for one in before if one not in now], [])


def seen(top: str = "") -> list[object]:
    tops = [top or PLACE] if os.path.isdir(PLACE) else []
    return [*mounts(), *(one for top in tops for one in tree(top)), os.getcwd()]


def bind() -> None:
    """Directories and files shown in other places, with flags."""
    leave()
    for name in ("source", "target", "target/deep", "other"):
        os.makedirs(f"{PLACE}/{name}", exist_ok=True)
    os.makedirs(f"{PLACE}/source/deep", exist_ok=True)
    with open(f"{PLACE}/source/word", "w", encoding="ascii") as file:
        file.write("outside")
    with open(f"{PLACE}/one", "w", encoding="ascii") as file:
        file.write("a file")
    run("mount", "--bind", f"{PLACE}/source", f"{PLACE}/target")
    run("mount", "-o", "remount,bind,ro,nosuid,nodev,noexec,noatime", f"{PLACE}/target")
    run("mount", "--bind", f"{PLACE}/one", f"{PLACE}/source/word")
    run("mount", "--bind", f"{PLACE}/source/deep", f"{PLACE}/other")
    run("mount", "--make-unbindable", f"{PLACE}/other")
    before = seen()
    os.chdir(f"{PLACE}/target")
    opened = os.open("word", os.O_RDONLY)
    path = os.readlink(f"/proc/self/fd/{opened}")
    os.chdir(os.path.dirname(PLACE))
    wait_for_go()
    compare(before)
    expect("path", os.readlink(f"/proc/self/fd/{opened}"), path)
    expect("content", os.read(opened, 100), b"outside")


def tmpfs() -> None:
    """Files of its own, open, mapped, deleted, run from, listened on; shared with a child."""
    leave()
    run("mount", "-t", "tmpfs", "-o", "size=64m,mode=1750,uid=7,nr_inodes=5000", "mine", PLACE)
    fill(PLACE)
    os.makedirs(f"{PLACE}/below")
    run("mount", "-t", "tmpfs", "below", f"{PLACE}/below")
    with open(f"{PLACE}/below/word", "w", encoding="ascii") as file:
        file.write("below")
    os.makedirs(f"{PLACE}/masked")
    run("mount", "-t", "tmpfs", "-o", "ro,size=4k", "mask", f"{PLACE}/masked")
    opened = os.open(f"{PLACE}/a/file", os.O_RDWR | os.O_APPEND)
    deleted = os.open(f"{PLACE}/gone", os.O_RDWR | os.O_CREAT)
    os.write(deleted, b"deleted")
    os.unlink(f"{PLACE}/gone")
    mapped = os.open(f"{PLACE}/mapped", os.O_RDWR | os.O_CREAT)
    os.ftruncate(mapped, 8192)
    memory = mmap.mmap(mapped, 8192)
    memory[:6] = b"mapped"
    fifo = os.open(f"{PLACE}/fifo", os.O_RDWR)
    os.write(fifo, b"in the fifo")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(f"{PLACE}/listens")
    listener.listen()
    os.chdir(f"{PLACE}/a")
    before = seen()
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        wait_along()
        compare(before)
        os.write(sending, os.readlink("/proc/self/ns/mnt").encode())
        os._exit(0)
    wait_for_go()
    expect("child", os.waitpid(child, 0)[1], 0)
    expect("one namespace", os.read(receiving, 100), os.readlink("/proc/self/ns/mnt").encode())
    compare(before)
    expect("fifo", os.read(fifo, 100), b"in the fifo")
    os.write(opened, b"more")
    expect("appended", os.stat(f"{PLACE}/a/b/same").st_size, 5004)
    expect("deleted", os.pread(deleted, 100, 0), b"deleted")
    memory[6:8] = b"!!"
    expect("mapped", os.pread(mapped, 8, 0), b"mapped!!")
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(f"{PLACE}/listens")
    expect("below", word(f"{PLACE}/below/word"), "below")


def pivot() -> None:
    """A root of its own: a tmpfs, with the system's directories in it, as sandboxes are."""
    leave()
    run("mount", "-t", "tmpfs", "sandbox", PLACE)
    os.makedirs(f"{PLACE}/root/old")
    top = f"{PLACE}/root"
    run("mount", "--bind", top, top)
    be_in(top)
    with open("/word", "w", encoding="ascii") as file:
        file.write("root")
    opened = os.open("/word", os.O_RDONLY)
    before = [mounts(), sorted(os.listdir("/"))]
    wait_for_go()
    expect("mounts", [mounts(), sorted(os.listdir("/"))], before)
    expect("content", os.read(opened, 100), b"root")
    expect("path", os.readlink(f"/proc/self/fd/{opened}"), "/word")


def be_in(top: str) -> None:
    """A mount becomes the root, with the system's directories and the one that we are in."""
    os.makedirs(f"{top}/old", exist_ok=True)
    for name in ("usr", "bin", "lib", "lib64", "proc", "dev", "tmp", "work"):
        if os.path.islink(f"/{name}"):
            os.symlink(os.readlink(f"/{name}"), f"{top}/{name}")
        elif os.path.isdir(f"/{name}"):
            os.makedirs(f"{top}/{name}", exist_ok=True)
            run("mount", "--rbind", f"/{name}", f"{top}/{name}")
    here = os.getcwd()
    os.makedirs(f"{top}{here}", exist_ok=True)
    run("mount", "--bind", here, f"{top}{here}")
    run("mount", "-t", "proc", "proc", f"{top}/proc")
    os.chdir(top)
    run("pivot_root", ".", "old")
    os.chroot(".")
    run("umount", "-l", "/old")
    os.chdir("/")


def propagation() -> None:
    """Peers, masters, and both at once."""
    leave()
    run("mount", "-t", "tmpfs", "a", PLACE)
    for name in ("peer", "slave", "both", "alone"):
        os.makedirs(f"{PLACE}/{name}")
    os.makedirs(f"{PLACE}/source/deep")
    run("mount", "-t", "tmpfs", "s", f"{PLACE}/source")
    run("mount", "--make-shared", f"{PLACE}/source")
    for name in ("peer", "slave", "both", "alone"):
        run("mount", "--bind", f"{PLACE}/source", f"{PLACE}/{name}")
    run("mount", "--make-slave", f"{PLACE}/slave")
    run("mount", "--make-slave", f"{PLACE}/both")
    run("mount", "--make-shared", f"{PLACE}/both")
    run("mount", "--make-private", f"{PLACE}/alone")
    os.makedirs(f"{PLACE}/source/new")
    before = seen()
    wait_for_go()
    compare(before)
    run("mount", "-t", "tmpfs", "new", f"{PLACE}/source/new")
    with open(f"{PLACE}/source/new/word", "w", encoding="ascii") as file:
        file.write("new")
    shown = [
        name
        for name in ("peer", "slave", "both", "alone")
        if os.path.exists(f"{PLACE}/{name}/new/word")
    ]
    expect("propagated", shown, ["peer", "slave", "both"])
    run("umount", f"{PLACE}/slave/new")


def stacked() -> None:
    """Mounts that hide others."""
    leave()
    for name in ("first", "second"):
        run("mount", "-t", "tmpfs", name, PLACE)
        with open(f"{PLACE}/word", "w", encoding="ascii") as file:
            file.write(name)
    os.makedirs(f"{PLACE}/a/b")
    run("mount", "-t", "tmpfs", "deep", f"{PLACE}/a/b")
    with open(f"{PLACE}/a/b/word", "w", encoding="ascii") as file:
        file.write("deep")
    run("mount", "-t", "tmpfs", "cover", f"{PLACE}/a")
    before = seen()
    wait_for_go()
    compare(before)
    run("umount", f"{PLACE}/a")
    expect("deep", word(f"{PLACE}/a/b/word"), "deep")
    run("umount", f"{PLACE}/a/b")
    run("umount", PLACE)
    expect("first", word(f"{PLACE}/word"), "first")


def layers(top: str, names: "tuple[str, ...]") -> None:
    """Directories of layers: some files in each, one of them in several."""
    for name in (*names, "upper", "work", "merged"):
        os.makedirs(f"{top}/{name}/common", exist_ok=True)
    os.rmdir(f"{top}/work/common")
    for name in names:
        for file in (name, "same", "common/same", f"common/{name}"):
            write(f"{top}/{name}/{file}", name)


def write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def change(merged: str) -> None:
    """A file copied up, a new one, a removed one, a renamed directory."""
    write(f"{merged}/same", "upper")
    write(f"{merged}/new", "new")
    os.unlink(f"{merged}/common/same")
    os.mkdir(f"{merged}/folder")
    os.rename(f"{merged}/folder", f"{merged}/renamed")


def use(merged: str, folder_of_deleted: str) -> None:
    """Files of a filesystem that is nowhere else: open, mapped, deleted, run from."""
    opened = os.open(f"{merged}/same", os.O_RDWR | os.O_APPEND)
    below = os.open(f"{merged}/common/first", os.O_RDONLY)
    deleted = os.open(f"{folder_of_deleted}/gone", os.O_RDWR | os.O_CREAT)
    os.write(deleted, b"deleted")
    os.unlink(f"{folder_of_deleted}/gone")
    with open(f"{merged}/first", "rb") as file:
        memory = mmap.mmap(file.fileno(), 5, access=mmap.ACCESS_READ)
    os.chdir(f"{merged}/renamed")
    before = seen(merged)
    wait_for_go()
    compare(before, merged)
    os.write(opened, b" and more")
    expect("appended", word(f"{merged}/same"), "upper and more")
    expect("opened", os.read(below, 100), b"first")
    expect("deleted", os.pread(deleted, 100, 0), b"deleted")
    expect("mapped", memory[:], b"first")
    expect("removed", os.path.exists(f"{merged}/common/same"), False)
    write(f"{merged}/later", "later")


def overlay() -> None:
    """Its layers are nowhere else either; another one is over it."""
    leave()
    run("mount", "-t", "tmpfs", "layers", PLACE)
    layers(PLACE, ("first", "second:, \\ it"))
    lower = f"{PLACE}/first:{PLACE}/second\\:\\, \\\\ it"
    options = f"lowerdir={lower},upperdir={PLACE}/upper,workdir={PLACE}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", f"{PLACE}/merged")
    change(f"{PLACE}/merged")
    os.mkdir(f"{PLACE}/again")
    options = f"lowerdir={PLACE}/merged:{PLACE}/first"
    run("mount", "-t", "overlay", "-o", options, "two", f"{PLACE}/again")
    expect("over it", word(f"{PLACE}/again/same"), "upper")
    use(f"{PLACE}/merged", f"{PLACE}/merged")
    expect("and it is", word(f"{PLACE}/again/later"), "later")


def overlay_outside() -> None:
    """Its layers are directories that everybody has."""
    layers(PLACE, ("first", "second" + "x" * 200))
    leave()
    lower = f"{PLACE}/first:{PLACE}/second" + "x" * 200
    options = f"lowerdir={lower},upperdir={PLACE}/upper,workdir={PLACE}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", f"{PLACE}/merged")
    change(f"{PLACE}/merged")
    use(f"{PLACE}/merged", PLACE)


def overlay_root() -> None:
    """A root made of layers that cannot be seen from there, as containers have it."""
    if "inside" not in CASE:
        layers(PLACE, ("first",))
    leave()
    options = f"lowerdir={PLACE}/first,upperdir={PLACE}/upper,workdir={PLACE}/work"
    top = f"{PLACE}/merged"
    run("mount", "-t", "overlay", "-o", options, "overlay", top)
    be_in(top)
    write("/new", "new")
    opened = os.open("/first", os.O_RDONLY)
    before = [mounts(), sorted(os.listdir("/"))]
    wait_for_go()
    expect("mounts", [mounts(), sorted(os.listdir("/"))], before)
    expect("content", [os.read(opened, 100), word("/new")], [b"first", "new"])


def overlay_of_user() -> None:
    """Mounted by somebody who is root only in there."""
    leave("--user", "--map-root-user")
    run("mount", "-t", "tmpfs", "layers", PLACE)
    layers(PLACE, ("first",))
    options = f"lowerdir={PLACE}/first,upperdir={PLACE}/upper,workdir={PLACE}/work,userxattr"
    run("mount", "-t", "overlay", "-o", options, "overlay", f"{PLACE}/merged")
    change(f"{PLACE}/merged")
    use(f"{PLACE}/merged", f"{PLACE}/merged")


def overlay_gone() -> None:
    """Nobody can see its layers any more."""
    leave()
    run("mount", "-t", "tmpfs", "layers", PLACE)
    layers(PLACE, ("first",))
    os.makedirs("merged", exist_ok=True)
    options = f"lowerdir={PLACE}/first,upperdir={PLACE}/upper,workdir={PLACE}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", os.path.abspath("merged"))
    run("umount", "-l", PLACE)
    wait_for_go()


def overlay_other() -> None:
    """Its layers' names lead to other directories."""
    leave()
    run("mount", "-t", "tmpfs", "layers", PLACE)
    layers(PLACE, ("first",))
    options = f"lowerdir={PLACE}/first,upperdir={PLACE}/upper,workdir={PLACE}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", f"{PLACE}/merged")
    os.rename(f"{PLACE}/first", f"{PLACE}/moved")
    os.mkdir(f"{PLACE}/first")
    wait_for_go()


def overlay_relative() -> None:
    leave()
    run("mount", "-t", "tmpfs", "layers", PLACE)
    layers(PLACE, ("first", "second"))
    os.chdir(PLACE)
    run("mount", "-t", "overlay", "-o", "lowerdir=first:second", "overlay", "merged")
    wait_for_go()


def two() -> None:
    """A second namespace that has a tmpfs, an overlayfs and a peer group in common with the first."""
    leave()
    run("mount", "-t", "tmpfs", "common", PLACE)
    layers(PLACE, ("first",))
    options = f"lowerdir={PLACE}/first,upperdir={PLACE}/upper,workdir={PLACE}/work"
    run("mount", "-t", "overlay", "-o", options, "overlay", f"{PLACE}/merged")
    for name in ("peers", "proc"):
        os.makedirs(f"{PLACE}/{name}/below")
    run("mount", "-t", "tmpfs", "peers", f"{PLACE}/peers")
    run("mount", "--make-shared", f"{PLACE}/peers")
    os.mkdir(f"{PLACE}/peers/below")
    left, right = socket.socketpair()
    child = os.fork()
    if not child:
        unshare_by_hand()
        run("mount", "-t", "tmpfs", "its own", f"{PLACE}/proc")
        before = mounts()
        left.send(b"ready")
        wait_along()
        expect("mounts", mounts(), before)
        left.send(b"compared")
        expect("told", left.recv(10), b"written")
        words = [
            word(f"{PLACE}/{name}/word") for name in ("first", "merged", "peers", "peers/below")
        ]
        expect("words", words, ["first", "merged", "peers", "peers/below"])
        os._exit(0)
    expect("its start", right.recv(10), b"ready")
    merged = f"{PLACE}/merged"
    all_of_it = seen(merged)
    wait_for_go()
    compare(all_of_it, merged)
    expect("the child's mounts", right.recv(10), b"compared")
    run("mount", "-t", "tmpfs", "more", f"{PLACE}/peers/below")
    for name in ("first", "merged", "peers", "peers/below"):
        write(f"{PLACE}/{name}/word", name)
    right.send(b"written")
    expect("child", os.waitpid(child, 0)[1], 0)


def ramfs() -> None:
    """A kind of filesystem that is nowhere else, and cannot be made again."""
    leave()
    run("mount", "-t", "ramfs", "mine", PLACE)
    wait_for_go()


def shown() -> None:
    """Filesystems that show a network and an IPC namespace of its own."""
    leave("--ipc", "--net")
    run("mount", "-t", "tmpfs", "places", PLACE)
    for name in ("sys", "again", "mqueue"):
        os.makedirs(f"{PLACE}/{name}")
    run("mount", "-t", "sysfs", "-o", "nosuid", "sysfs", f"{PLACE}/sys")
    run("mount", "--bind", f"{PLACE}/sys/class", f"{PLACE}/again")
    run("mount", "-t", "mqueue", "queues", f"{PLACE}/mqueue")
    os.close(os.open(f"{PLACE}/mqueue/unopened", os.O_CREAT | os.O_RDWR, 0o640))
    queue = os.open(f"{PLACE}/mqueue/opened", os.O_CREAT | os.O_RDWR, 0o604)
    opened = os.open(f"{PLACE}/sys/class/net/lo/mtu", os.O_RDONLY)
    before = [mounts(), *names()]
    expect("names", before[1:], [["opened", "unopened"], ["lo"], ["lo"]])
    wait_for_go()
    expect("seen", [mounts(), *names()], before)
    expect("mtu", os.read(opened, 100), b"65536\n")
    expect("queue", os.fstat(queue).st_ino, os.stat(f"{PLACE}/mqueue/opened").st_ino)
    expect("mode", stat.S_IMODE(os.stat(f"{PLACE}/mqueue/unopened").st_mode), 0o640)


def names() -> list[list[str]]:
    folders = ("mqueue", "sys/class/net", "again/net")
    return [sorted(os.listdir(f"{PLACE}/{one}")) for one in folders]


def itself() -> None:
    """A program that unshares by itself: what it has mapped and open is of the mounts it has left."""
    os.makedirs(PLACE, exist_ok=True)
    opened = os.open(PLACE, os.O_RDONLY)
    os.unshare(NEW_NS) if hasattr(os, "unshare") else unshare_by_hand()
    run("mount", "--make-rprivate", "/")
    run("mount", "-t", "tmpfs", "mine", PLACE)
    fill(PLACE)
    before = seen()
    expect("the old one", os.listdir(opened), [])
    wait_for_go()
    compare(before)
    expect("the old one still", os.listdir(opened), [])


def unshare_by_hand() -> None:
    expect("unshare", ctypes.CDLL(None).unshare(NEW_NS), 0)


CASES = {
    one.__name__: one
    for one in (
        bind, tmpfs, pivot, propagation, stacked, shown, itself, two, ramfs,
        overlay, overlay_outside, overlay_root, overlay_of_user, overlay_gone, overlay_other, overlay_relative,
    )
}  # fmt: skip
CASES[CASE[0]]()
finish()
