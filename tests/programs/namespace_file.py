"""Descriptors of namespaces: of this process's, and of a child's own (CASE[0]: a kind, or `outside`)."""

import ctypes
import os

from tests.programs.protocol import CASE, expect, finish, wait_for_go

FLAGS = {
    "cgroup": 0x02000000, "ipc": 0x08000000, "mnt": 0x00020000, "net": 0x40000000, "pid": 0x20000000,
    "time": 0x80, "user": 0x10000000, "uts": 0x04000000,
}  # fmt: skip
LIBC = ctypes.CDLL(None)


def opened(pid: "int | str", kind: str) -> int:
    return os.open(f"/proc/{pid}/ns/{kind}", os.O_RDONLY)


def number(pid: "int | str", kind: str) -> int:
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def child_apart(kind: str) -> tuple[int, int]:
    """In a new one of that kind; of pid and time namespaces a grandchild is. It ends when a descriptor is closed."""
    receiving, sending = os.pipe()
    waiting, ending = os.pipe()
    child = os.fork()
    if not child:
        os.close(ending)
        expect("unshare", LIBC.unshare(FLAGS[kind]), 0)
        below = os.fork() if kind in ("pid", "time") else 0
        if below and kind == "time":  # whose children to come would be in another one than it is
            os._exit(0)
        if not below:
            os.write(sending, os.getpid().to_bytes(4, "little"))
        os.read(waiting, 1)
        if below:
            expect("grandchild", os.waitpid(below, 0)[1], 0)
        os._exit(0)
    number = int.from_bytes(os.read(receiving, 4), "little")
    if kind == "time":
        expect("between", os.waitpid(child, 0)[1], 0)
        child = number
    return child, ending


def enter(fd: int, kind: str) -> int:
    """The number of the namespace that a child, or its child, is in when it has entered it by the descriptor."""
    receiving, sending = os.pipe()
    child = os.fork()
    if not child:
        expect("setns", LIBC.setns(fd, FLAGS[kind]), 0)
        if kind in ("pid", "time") and (below := os.fork()):
            os._exit(os.waitstatus_to_exitcode(os.waitpid(below, 0)[1]))
        os.write(sending, os.stat(f"/proc/thread-self/ns/{kind}").st_ino.to_bytes(8, "little"))
        os._exit(0)
    expect("entered", os.waitpid(child, 0)[1], 0)
    return int.from_bytes(os.read(receiving, 8), "little")


kind = CASE[0]
if kind == "outside":
    left = opened("self", "uts")
    expect("unshare", LIBC.unshare(FLAGS["uts"]), 0)
    held = opened("self", "uts")
    expect("back", LIBC.setns(left, 0), 0)
    wait_for_go()
    finish()
own = {name: opened("self", name) for name in FLAGS}
os.set_inheritable(own["net"], True)
by_path = os.open(f"/proc/self/ns/{kind}", os.O_PATH)
expect("subreaper", LIBC.prctl(36, 1, 0, 0, 0), 0)
child, ending = child_apart(kind)
childrens = "pid_for_children" if kind == "pid" else kind
fd = opened(child, childrens)
again = os.dup(fd)
wait_for_go()
for name, one in own.items():
    expect(name, os.fstat(one).st_ino, number("self", name))
expect("path", os.fstat(by_path).st_ino, number("self", kind))
expect("child's", os.fstat(fd).st_ino, number(child, childrens))
expect("another", os.fstat(fd).st_ino != number("self", kind), True)
expect("twice", os.fstat(again).st_ino, os.fstat(fd).st_ino)
expect("inheritable", [os.get_inheritable(own[one]) for one in ("net", "uts")], [True, False])
expect("entered", enter(fd, kind), number(child, childrens))
os.close(ending)
expect("child", os.waitpid(child, 0)[1], 0)
finish()
