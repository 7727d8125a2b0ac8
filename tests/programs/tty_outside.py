"""A terminal whose master is outside: descriptor 5, or 0 when CASE[0] is `stand-in`."""

import os

from tests.programs.protocol import CASE, expect, finish, wait_for_go

fd = 0 if CASE[0] == "stand-in" else 5
wait_for_go()
expect("is a terminal", os.isatty(fd), True)
expect("line", os.read(fd, 100), b"hello\n")
finish()
