"""A server on CASE[0] whose client, `tcp_peer.py`, is outside; CASE[1] is what the connection is in. Both check it all.

`idle`; `queued`: unread bytes each way; `full`: no more goes in either way; `half`: shut for writing here, `ended`:
there; `talk`: the client goes on while the program is gone; `reset`: the client ends the connection then.
"""

import os
import socket
import time

from tests.programs.protocol import CASE, expect, finish, wait_for_go
from tests.programs.tcp_exchange import fill, finish_exchange, pattern, tell

host, mode = CASE
family = socket.AF_INET6 if ":" in host else socket.AF_INET
listener = socket.create_server((host, 0), family=family, dualstack_ipv6=host == "::")
tell("address", f"{'127.0.0.1' if host == '::' else host} {listener.getsockname()[1]}")
server, client = listener.accept()
server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
written = 0
if mode in ("queued", "half", "talk", "reset"):
    written = server.send(pattern(0, 500))
if mode == "half":
    server.shutdown(socket.SHUT_WR)
if mode == "full":
    written = fill(server, 0)
while not os.path.exists("peer.ready"):
    time.sleep(0.002)
if mode == "full":
    written = fill(server, written)
server.setblocking(True)
info = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
name = server.getsockname()
wait_for_go()
expect("name", server.getsockname(), name)
if mode != "half":  # where the client may be through by now
    expect("peer", server.getpeername(), client)
expect("TCP_NODELAY", server.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
now = server.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
expect("options and scales", now[5:7], info[5:7])
read = finish_exchange(server, written, 3000, is_shut=mode == "half")
tell("server.end", f"{written if mode == 'half' else written + 3000} {read}")
server.close()
tell("second", "")
expect("new connection", listener.accept()[0].recv(100), b"new")
finish()
