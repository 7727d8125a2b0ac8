"""Directories that are removed and still open: twice, by dup, by path, by a child; one is in another (CASE[0])."""

import os

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go


def facts(fd: int) -> tuple[object, ...]:
    """What is told of it, and that nothing can be made in it."""
    try:
        os.mkdir("new", dir_fd=fd)
        made = True
    except FileNotFoundError:
        made = False
    status = os.fstat(fd)
    name = os.path.basename(os.readlink(f"/proc/self/fd/{fd}"))
    return (name, made, oct(status.st_mode), status.st_uid, status.st_gid, status.st_nlink)


os.makedirs("outer/inner", mode=0o751)
os.mkdir("one")
os.chown("one", 12, 34)
os.chmod("one", 0o1705)
one = os.open("one", os.O_RDONLY | os.O_DIRECTORY)
by_path = os.open("one", os.O_PATH)
twice = os.dup(one)
inner = os.open("outer/inner", os.O_RDONLY)
os.rmdir("one")
os.rmdir("outer/inner")
STAYS = CASE[0] == "in one that stays"
if not STAYS:
    os.rmdir("outer")
before = [facts(fd) for fd in (one, by_path, twice, inner)]
mtime = os.fstat(one).st_mtime_ns
child = os.fork()
if not child:
    wait_along()
    expect("child's", facts(one), before[0])
    os._exit(0)
wait_for_go()
expect("facts", [facts(fd) for fd in (one, by_path, twice, inner)], before)
expect("time", os.fstat(one).st_mtime_ns, mtime)
expect("the same", {os.fstat(fd).st_ino for fd in (one, by_path, twice)}, {os.fstat(one).st_ino})
expect("another", os.fstat(inner).st_ino != os.fstat(one).st_ino, True)
left = sorted(set(os.listdir()) - {"go", "output"})
expect("nothing left", left, ["outer"] if STAYS else [])
expect("child", os.waitpid(child, 0)[1], 0)
finish()
