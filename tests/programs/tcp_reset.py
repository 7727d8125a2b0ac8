"""As `tcp_rejoin.py`, where the connection must come back reset: its unread bytes, then ECONNRESET."""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go
from tests.programs.tcp_exchange import pattern, tell

listener = socket.create_server((CASE[0], 0))
tell("address", f"{CASE[0]} {listener.getsockname()[1]}")
server, _ = listener.accept()
expect("sent", server.recv(1000, socket.MSG_PEEK | socket.MSG_WAITALL), pattern(0, 1000))
wait_for_go()
server.settimeout(30)
expect("unread", server.recv(4096), pattern(0, 1000))
try:
    expect("end", server.recv(100), "ECONNRESET")
except ConnectionResetError:
    finish()
