"""Holds a deleted file that fills more than half of the filesystem mounted at `small`."""

import os

from tests.programs.protocol import expect, finish, wait_for_go

CONTENT = bytes(range(256)) * 512

file = os.open("small/deleted", os.O_RDWR | os.O_CREAT)
os.unlink("small/deleted")
os.write(file, CONTENT)
wait_for_go()
expect("content", os.pread(file, len(CONTENT) + 1, 0) == CONTENT, True)
finish()
