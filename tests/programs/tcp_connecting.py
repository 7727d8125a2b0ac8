"""In the middle of connect(2), non-blocking: the listener's queue is full, so the SYN waits; room is made after go."""

import select
import socket
import time

from tests.programs.protocol import expect, finish, wait_for_go

listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen(0)
first = socket.create_connection(listener.getsockname())
late = socket.socket()
late.setblocking(False)
late.connect_ex(listener.getsockname())
name = late.getsockname()
wait_for_go()
expect("name", late.getsockname(), name)
expect("first", listener.accept()[1], first.getsockname())
deadline = time.monotonic() + 40
while not select.select([], [late], [], 1)[1] and time.monotonic() < deadline:
    pass
expect("SO_ERROR", late.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), 0)
expect("second", listener.accept()[1], name)
finish()
