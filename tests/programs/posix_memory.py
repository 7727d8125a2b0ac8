"""POSIX shared memory that is open and mapped nowhere: its bytes are the generation's, not what others make of it."""

import os

from tests.programs.protocol import expect, finish, wait_for_go

name = f"/dev/shm/sls-posix-memory-{os.getpid()}"
memory = os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
empty = os.open(f"{name}-empty", os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
try:
    os.write(memory, b"words" * 2000)
    wait_for_go()
    expect("position", os.lseek(memory, 0, os.SEEK_CUR), 10000)
    expect("bytes", os.pread(memory, 20000, 0), b"words" * 2000)
    expect("by name", os.stat(name).st_ino, os.fstat(memory).st_ino)
    expect("empty", os.fstat(empty).st_size, 0)
finally:
    os.unlink(name)
    os.unlink(f"{name}-empty")
finish()
