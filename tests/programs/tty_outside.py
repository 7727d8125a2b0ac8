"""Descriptor 5 is a slave whose master is outside."""

import os
import sys

from tests.programs.protocol import CASE, expect, finish, wait_for_go

wait_for_go()
if CASE[0] == "gone":
    expect("stand-in", os.readlink("/proc/self/fd/5"), "/dev/null")
    finish()
if not os.isatty(5):
    sys.exit("descriptor 5 is no terminal")
expect("line", os.read(5, 100), b"hello\n")
finish()
