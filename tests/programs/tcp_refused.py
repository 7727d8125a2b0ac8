"""connect(2) to CASE[0] has failed, and the program has not been told yet; then it connects again, elsewhere.

CASE[1] `bound`: the socket had a port before. A connection that was accepted and reset is next to it.
"""

import errno
import select
import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

host = CASE[0]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
taken = socket.socket(family)
taken.bind((host, 0))
late = socket.socket(family)
if "bound" in CASE:
    late.bind((host, 0))
late.setblocking(False)
expect("under way", late.connect_ex(taken.getsockname()), errno.EINPROGRESS)
poller = select.poll()
poller.register(late, select.POLLERR)
expect("failed", bool(poller.poll(5000)), True)
name = late.getsockname()
listener = socket.create_server((host, 0), family=family)
client = socket.create_connection(listener.getsockname()[:2])
server, _ = listener.accept()
client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
client.close()
poller.register(server, select.POLLERR)
while len(poller.poll(5000)) < 2:
    pass
wait_for_go()
if "bound" in CASE:
    expect("name", late.getsockname(), name)
expect("blocking", late.getblocking(), False)
expect("error", late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNREFUSED)
expect("no error", late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
expect("reset", server.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), errno.ECONNRESET)
late.setblocking(True)
expect("still connecting", late.connect_ex(listener.getsockname()), errno.ECONNABORTED)
late.settimeout(5)
late.connect(listener.getsockname())
other, _ = listener.accept()
other.send(b"words")
expect("words", late.recv(100), b"words")
finish()
