"""Descriptor 5 is an end of a pipe whose other end is outside: CASE[0] says which end this is."""

import os

from tests.programs.protocol import CASE, expect, finish, wait_for_go

wait_for_go()
if CASE[0] == "read":
    expect("bytes from outside", os.read(5, 100), b"hello")
else:
    os.write(5, b"hello")
finish()
