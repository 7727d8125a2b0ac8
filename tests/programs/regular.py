"""Regular files and a directory with positions and flags; the working directory is the test's own."""

import fcntl
import os
import sys

from tests.programs.protocol import expect, finish, wait_along, wait_for_go

BEYOND = (1 << 32) + 5

with open("lines", "wb") as file:
    file.write(b"0123456789")
shared = os.open("lines", os.O_RDWR)
os.lseek(shared, 3, os.SEEK_SET)
copy = os.dup(shared)
other = os.open("lines", os.O_RDONLY | os.O_CLOEXEC)
appending = os.open("log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
os.write(appending, b"first ")
far = os.open("sparse", os.O_RDWR | os.O_CREAT)
os.lseek(far, BEYOND, os.SEEK_SET)
os.write(far, b"x")
os.mkdir("folder")
for index in range(5):
    open(f"folder/{index}", "wb").close()
folder = os.open("folder", os.O_RDONLY | os.O_DIRECTORY)
child = os.fork()
if not child:
    wait_along()
    expect("shared position", os.read(shared, 3), b"345")
    os.write(appending, b"child ")
    sys.exit(0)
wait_for_go()
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
expect("position moved by the child", os.read(copy, 2), b"67")
expect("position of its own", os.read(other, 2), b"01")
expect("close on exec", fcntl.fcntl(other, fcntl.F_GETFD), fcntl.FD_CLOEXEC)
expect("no close on exec", fcntl.fcntl(shared, fcntl.F_GETFD), 1)
os.write(appending, b"parent")
with open("log", "rb") as file:
    expect("what was appended", file.read(), b"first child parent")
expect("far position", os.lseek(far, 0, os.SEEK_CUR), BEYOND + 1)
expect("entries", len(os.listdir(folder)), 5)
finish()
