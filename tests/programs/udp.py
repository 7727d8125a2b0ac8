"""A UDP socket on CASE[0] with CASE[2] datagrams of CASE[1] bytes in its queue; `connected` in CASE[3] connects it.

The sender lives; another one is gone by then.
"""

import os
import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

host, size, count, mode = CASE[0], int(CASE[1]), int(CASE[2]), CASE[3]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
receiver = socket.socket(family, socket.SOCK_DGRAM)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 19)
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
receiver.bind((host, 0))
port = receiver.getsockname()[1]
senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(2)]
for sender in senders:
    sender.bind((loopback, 0))
if mode == "connected":
    receiver.connect(senders[0].getsockname())
names = [sender.getsockname() for sender in senders]
wanted = []
for index in range(count):
    which = 0 if mode == "connected" else index % 2
    data = bytes([index & 0xFF]) * size
    senders[which].sendto(data, (loopback, port))
    wanted.append((data, names[which]))
senders[1].close()
state = (receiver.getsockname(), receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF))
copy = os.dup(receiver.fileno())
wait_for_go()
expect(
    "state",
    (receiver.getsockname(), receiver.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)),
    state,
)
expect("SO_BROADCAST", receiver.getsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST), 1)
if mode == "connected":
    expect("peer", receiver.getpeername(), names[0])
receiver.setblocking(False)
expect("queue", [receiver.recvfrom(1 << 17) for _ in wanted], wanted)
try:
    expect("more", receiver.recv(100), None)
except BlockingIOError:
    pass
receiver.setblocking(True)
receiver.settimeout(30)
senders[0].sendto(b"new", (loopback, port))
expect("new", receiver.recvfrom(100), (b"new", names[0]))
expect("dup", socket.socket(fileno=copy).getsockname(), state[0])
finish()
