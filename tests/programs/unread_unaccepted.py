"""A client inside that has sent on a connection nobody has accepted yet; CASE[0] is `unix` or `tcp`."""

import os
import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

is_unix = CASE[0] == "unix"
listener = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
listener.bind(f"\0sls-unread-{os.getpid()}" if is_unix else ("127.0.0.1", 0))
listener.listen()
client = socket.socket(listener.family)
client.connect(listener.getsockname())
client.send(b"early")
wait_for_go()
expect("words", listener.accept()[0].recv(100), b"early")
finish()
