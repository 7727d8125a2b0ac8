"""A client inside that has sent on a connection nobody has accepted yet; CASE[0] is `unix` or `tcp`.

With `ended` it has sent nothing but its end; with `both` that after its data.
"""

import os
import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

is_unix = CASE[0] == "unix"
listener = socket.socket(socket.AF_UNIX if is_unix else socket.AF_INET)
listener.bind(f"\0sls-unread-{os.getpid()}" if is_unix else ("127.0.0.1", 0))
listener.listen()
client = socket.socket(listener.family)
client.connect(listener.getsockname())
if "ended" not in CASE:
    client.send(b"early")
if "ended" in CASE or "both" in CASE:
    client.shutdown(socket.SHUT_WR)
wait_for_go()
listener.settimeout(5)
accepted, _ = listener.accept()
accepted.settimeout(5)
expect("words", accepted.recv(100), b"" if "ended" in CASE else b"early")
accepted.send(b"answer")
expect("answer", client.recv(100), b"answer")
finish()
