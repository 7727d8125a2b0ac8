"""A TCP connection whose client is outside: it connects to what the file `address` names, and sends four bytes.

After a restore: the unread bytes, then a reset, where CASE[0] is `reset`; else the connection goes on.
"""

import os
import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

listener = socket.create_server(("127.0.0.1", 0))
with open("address.new", "w", encoding="ascii") as file:
    file.write(f"127.0.0.1 {listener.getsockname()[1]}")
os.rename("address.new", "address")
accepted, client = listener.accept()
accepted.settimeout(30)
expect("peeked", accepted.recv(4, socket.MSG_PEEK | socket.MSG_WAITALL), b"to n")
name = accepted.getsockname()
wait_for_go()
expect("name", accepted.getsockname(), name)
expect("unread", accepted.recv(100), b"to nobody")
if CASE[0] == "reset":
    try:
        expect("end", accepted.recv(100), "ECONNRESET")
    except ConnectionResetError:
        pass
    with socket.create_connection(name) as second:
        second.send(b"x")
        expect("new connection", listener.accept()[0].recv(100), b"x")
else:
    expect("peer", accepted.getpeername(), client)
    accepted.send(b"bye")
finish()
