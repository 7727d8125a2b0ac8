"""A pipe of CASE[1] bytes with CASE[0] bytes in it; its ends lie in different processes, one of them duplicated."""

import fcntl
import os
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

count, size = int(CASE[0]), int(CASE[1])
data = bytes(index * 7 & 0xFF for index in range(count))
read_end, write_end = os.pipe2(os.O_NONBLOCK)
fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, size)
os.write(write_end, data)
back_read, back_write = os.pipe()
child = os.fork()
if not child:
    os.close(write_end)
    copy = os.dup(read_end)
    os.close(read_end)
    os.write(back_write, b"settled")
    wait_along()
    os.set_blocking(copy, True)
    received = b""
    while chunk := os.read(copy, 1 << 20):
        received += chunk
    expect("bytes", received, data + b"more")
    expect("size", fcntl.fcntl(copy, fcntl.F_GETPIPE_SZ), size)
    os.write(back_write, b"done")
    sys.exit(0)
os.close(read_end)
os.read(back_read, 100)
wait_for_go()
expect("O_NONBLOCK", os.get_blocking(write_end), False)
os.set_blocking(write_end, True)
os.write(write_end, b"more")
os.close(write_end)
os.close(back_write)
expect("answer", os.read(back_read, 100), b"done")
expect("end", os.read(back_read, 100), b"")
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
finish()
