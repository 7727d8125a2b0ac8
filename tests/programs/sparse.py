"""A deleted file in `files/`, all of it holes but for a few bytes. argv: go file, partition, size."""

import os
import sys

from tests.programs.protocol import expect, finish, wait_for_go

path, size = f"{sys.argv[2]}/files/sparse", int(sys.argv[3])
places = (0, size // 2 - 3, size - 7)
file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(file, size)
for place in places:
    os.pwrite(file, b"content", place)
os.unlink(path)
wait_for_go()
expect("size", os.fstat(file).st_size, size)
for place in places:
    expect(
        f"bytes at {place}", os.pread(file, 9, place - 1 if place else 0).strip(b"\0"), b"content"
    )
expect("allocated", os.fstat(file).st_blocks * 512 < 1 << 17, True)
finish()
