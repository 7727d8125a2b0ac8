"""The devices without state."""

import os

from tests.programs.protocol import expect, finish, wait_for_go

null = os.open("/dev/null", os.O_RDWR)
zero = os.open("/dev/zero", os.O_RDONLY)
full = os.open("/dev/full", os.O_WRONLY)
random = os.open("/dev/random", os.O_RDONLY)
urandom = os.open("/dev/urandom", os.O_RDONLY)
wait_for_go()
expect("write to null", os.write(null, b"gone"), 4)
expect("read of null", os.read(null, 1), b"")
expect("read of zero", os.read(zero, 3), b"\0\0\0")
expect("read of random", len(os.read(random, 8)), 8)
expect("read of urandom", len(os.read(urandom, 8)), 8)
try:
    os.write(full, b"x")
except OSError as error:
    expect("write to full", error.errno, 28)
else:
    expect("write to full", "succeeded", "ENOSPC")
finish()
