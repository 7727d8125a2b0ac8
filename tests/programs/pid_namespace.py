"""A pid namespace of its own, as unshare(1) makes it; CASE[0] says how. Its first process looks at what has a number.

Numbers are compared as seen inside: of the process, its group and session, of children, threads, locks, owners.
"""

import ctypes
import fcntl
import os
import select
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from typing import NoReturn

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

OPTIONS = {
    "plain": ["--pid", "--fork"],
    "proc": ["--pid", "--fork", "--mount-proc"],
    "all": ["--pid", "--fork", "--mount-proc", "--mount", "--uts", "--ipc", "--net"],
    "killed": ["--pid", "--fork", "--kill-child"],
}
FLOCK = struct.Struct("=hh4xqqi4x")


def clone() -> int:
    """clone(2) with CLONE_NEWPID: the child alone is in the namespace; what it makes is, too."""
    return int(ctypes.CDLL(None).syscall(56, 0x20000000 | signal.SIGCHLD, 0, 0, 0, 0))


def be_parent(child: int) -> NoReturn:
    """Of a first process, and not in its namespace."""
    wait_along()
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))


def leave() -> None:
    if CASE[0] == "cloned":
        if child := clone():
            be_parent(child)
        return
    depth = CASE.count("inside")
    wanted = 2 if CASE[0] == "nested" else 1
    if depth < wanted:
        options = OPTIONS.get(CASE[0], OPTIONS["proc"])
        arguments = [sys.executable, "-S", "-P", *sys.argv, "inside"]
        os.execvp("unshare", ["unshare", *options, "--", *arguments])


def holder(lock: int, ready: int) -> int:
    """A child that holds a lock, leads a group, and waits."""
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        fcntl.lockf(lock, fcntl.LOCK_EX)
        os.write(ready, b".")
        wait_along()
        expect("its number", os.getpid(), int.from_bytes(os.pread(lock, 4, 0), "little"))
        os._exit(0)
    os.pwrite(lock, pid.to_bytes(4, "little"), 0)
    return pid


def leader(ready: int) -> int:
    """A child that leads a session, with a child of its own whose group is not its own."""
    pid = os.fork()
    if not pid:
        os.setsid()
        below = os.fork()
        if not below:
            os.write(ready, b".")
            wait_along()
            expect("session", os.getsid(0), os.getppid())
            os._exit(0)
        wait_along()
        expect("grandchild", os.waitpid(below, 0), (below, 0))
        os._exit(0)
    return pid


def orphan(ready: int) -> None:
    """A grandchild whose parent has ended: it is the first process's."""
    between = os.fork()
    if not between:
        if not os.fork():
            while os.getppid() != 1:
                time.sleep(0.001)
            os.write(ready, b".")
            wait_along()
            expect("parent of the orphan", os.getppid(), 1)
            os._exit(0)
        os._exit(0)
    os.waitpid(between, 0)


def locker(lock: int) -> int:
    """Who holds the lock, as F_GETLK tells."""
    asked = FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    return int(FLOCK.unpack(fcntl.fcntl(lock, fcntl.F_GETLK, asked))[4])


def numbers(lock: int, owned: int, thread: threading.Thread) -> dict[str, object]:
    found: dict[str, object] = {
        "pid": os.getpid(),
        "ppid": os.getppid(),
        "group": os.getpgid(0),
        "session": os.getsid(0),
        "thread": thread.native_id,
        "lock": locker(lock),
        "owner": fcntl.fcntl(owned, fcntl.F_GETOWN),
        "host": os.uname().nodename,
    }
    if CASE[0] not in ("plain", "killed", "cloned"):
        found["processes"] = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
        found["self"] = os.readlink("/proc/self")
        with open("/proc/self/mountinfo", encoding="ascii") as file:
            found["mounts"] = sorted(" ".join(line.split()[3:6]) for line in file)
    return found


def own_numbers() -> list[object]:
    """What is to be the same: numbers in all pid namespaces, those seen from inside, how deep a new child is."""
    child = os.fork()
    if not child:
        os._exit(len(status_words("NSpid")))
    words = [status_words(name) for name in ("NSpid", "NSpgid", "NSsid")]
    return [os.getpid(), os.getppid(), os.getpgid(0), os.getsid(0), os.waitpid(child, 0)[1], *words]


def status_words(name: str) -> list[str]:
    with open("/proc/thread-self/status", encoding="ascii") as file:
        return next(line.split() for line in file if line.startswith(f"{name}:"))


def wait_unchanged() -> None:
    before = own_numbers()
    wait_along()
    expect("numbers", own_numbers(), before)


def enter(first: int) -> None:
    """Children to come are in its namespace."""
    namespace = os.open(f"/proc/{first}/ns/pid", os.O_RDONLY)
    expect("setns", ctypes.CDLL(None).setns(namespace, 0), 0)
    os.close(namespace)


def put_in(first: int, ready: int) -> None:
    """Leads a session; a child of before, one inside that has a child, and one inside that leads another session."""
    os.setsid()
    parent = os.getpid()
    for case in ("before", "inside", "leader"):
        if case == "inside":
            enter(first)
        if not os.fork():
            while "orphan" in CASE and os.getppid() == parent:
                time.sleep(0.001)
            if case == "leader":
                os.setsid()
            if case == "inside" and not os.fork():
                os.write(ready, b".")
                wait_unchanged()
                os._exit(0)
            os.write(ready, b".")
            wait_unchanged()
            if case == "inside":
                expect("below", os.wait()[1], 0)
            os._exit(0)


def entered() -> None:
    """Another child of this process's is in the namespace of the first one's, by setns(2), and so are its children.

    `early`: it was made before that first one. `orphan`: it has ended, and this process has taken its children in.
    """
    holding, released = os.pipe()
    receiving, sending = os.pipe()
    telling, told = os.pipe()
    others: list[int] = []

    def make_other() -> None:
        other = os.fork()
        if other:
            others.append(other)
            return
        os.close(released)
        put_in(int.from_bytes(os.read(telling, 8), "little"), sending)
        if "orphan" in CASE:
            os._exit(0)
        wait_unchanged()
        for _ in range(3):
            expect("child of the other", os.wait()[1], 0)
        os._exit(0)

    if "orphan" in CASE:
        expect("subreaper", ctypes.CDLL(None).prctl(36, 1, 0, 0, 0), 0)
    if "early" in CASE:
        make_other()
    first = clone()
    if not first:
        os.close(released)
        os.read(holding, 1)  # until all others have ended, who would end with it
        os._exit(0)
    if "early" not in CASE:
        make_other()
    os.write(told, first.to_bytes(8, "little"))
    count = 0
    while count < 4:
        count += len(os.read(receiving, 10))
    if "orphan" in CASE:
        expect("other", os.waitpid(others[0], 0)[1], 0)
    wait_for_go()
    if "orphan" in CASE:
        for _ in range(3):
            expect("taken in", os.wait()[1], 0)
    else:
        expect("other", os.waitpid(others[0], 0)[1], 0)
    os.close(released)
    expect("first", os.waitpid(first, 0)[1], 0)


def to_come() -> None:
    """The next child is the first of a new namespace."""
    expect("unshare", ctypes.CDLL(None).unshare(0x20000000), 0)
    before = os.getpid()
    wait_for_go()
    expect("its own", os.getpid(), before)
    first = os.fork()
    if not first:
        os._exit(os.getpid() + 10)
    expect("first", os.waitpid(first, 0)[1], 11 << 8)


def inside() -> None:
    expect("first", os.getpid(), 1)
    if CASE[0] == "all":
        subprocess.run(["hostname", "inside"], check=True)
    receiving, sending = os.pipe()
    lock = os.open("lock", os.O_RDWR | os.O_CREAT)
    held, led = holder(lock, sending), leader(sending)
    orphan(sending)
    zombie = os.fork()
    if not zombie:
        os._exit(7)
    os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
    owned, other = os.pipe()
    fcntl.fcntl(owned, fcntl.F_SETOWN, held)
    pidfd = os.pidfd_open(held)
    pair = socket.socketpair()
    pair[0].send(b"in the socket")
    stop = threading.Event()
    thread = threading.Thread(target=stop.wait)
    thread.start()
    count = 0
    while count < 3:
        count += len(os.read(receiving, 10))
    got: list[int] = []
    signal.signal(signal.SIGUSR1, lambda number, frame: got.append(number))
    before = numbers(lock, owned, thread)
    expect("lock", before["lock"], held)
    last = os.fork()
    if not last:
        os._exit(0)
    os.waitpid(last, 0)
    wait_for_go()
    # children end at go, each by itself: what tells of them is looked at by `before` alone
    after = numbers(lock, owned, thread)
    for name in ("lock", "processes"):  # some may be gone
        before.pop(name, None), after.pop(name, None)
    expect("numbers", after, before)
    expect("holder", os.waitpid(held, 0), (held, 0))
    expect("pidfd", bool(select.select([pidfd], [], [], 30)[0]), True)
    expect("leader", os.waitpid(led, 0), (led, 0))
    expect("zombie", os.waitpid(zombie, 0), (zombie, 7 << 8))
    expect("socket", pair[1].recv(100), b"in the socket")
    os.kill(1, signal.SIGUSR1)
    expect("a signal to itself", got, [signal.SIGUSR1])
    os.kill(1, signal.SIGTERM)  # which the first process of a namespace does not get
    stop.set()
    thread.join()
    status = os.wait()[1]
    expect("orphan", status, 0)
    child = os.fork()
    if not child:
        os._exit(3)
    expect("a new child", os.waitpid(child, 0)[1], 3 << 8)
    expect("its number", child, last + 1)
    os.close(other)


if CASE[0] in ("entered", "to_come"):
    {"entered": entered, "to_come": to_come}[CASE[0]]()
    finish()
leave()
inside()
finish()
