"""Files of /proc: of itself, of a child, of the system; positions in them."""

import os
import sys

from tests.programs.protocol import expect, finish, wait_along, wait_for_go

child = os.fork()
if not child:
    wait_along()
    sys.exit(0)
own = os.open("/proc/self/status", os.O_RDONLY)
folder = os.open(f"/proc/{child}", os.O_RDONLY | os.O_DIRECTORY)
system = os.open("/proc/meminfo", os.O_RDONLY)
wait_for_go()
text = os.read(own, 4096)
expect("name", text.splitlines()[0], b"Name:\tpython")
expect("number", f"Pid:\t{os.getpid()}\n".encode() in text, True)
comm = os.open("comm", os.O_RDONLY, dir_fd=folder)
expect("comm of the child", os.read(comm, 6), b"python")
expect("system", os.read(system, 8), b"MemTotal")
os.waitpid(child, 0)
finish()
