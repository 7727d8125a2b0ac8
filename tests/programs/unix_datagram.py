"""Datagram sockets with names: queued datagrams keep senders and credentials; CASE[0] is `path` or `abstract`."""

import os
import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go


def name(text: str) -> str | bytes:
    return os.path.abspath(text) if CASE[0] == "path" else f"\0{text}-{os.getpid()}".encode()


def bound(text: str) -> socket.socket:
    made = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    made.bind(name(text))
    return made


def received() -> tuple[bytes, tuple[int, ...], object]:
    data, ancillary, _, address = receiver.recvmsg(1 << 17, 100)
    return data, struct.unpack("=3i", ancillary[0][2]), address


receiver, living, dead = bound("receiver"), bound("living"), bound("dead")
nameless = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
nameless.connect(name("receiver"))
receiver.setsockopt(socket.SOL_SOCKET, socket.SO_PASSCRED, 1)
own = (os.getpid(), 0, 0)
living.sendto(b"one", name("receiver"))
dead.sendto(b"two" * 30000, name("receiver"))
dead.close()
if CASE[0] == "path":
    os.unlink(name("dead"))
nameless.send(b"")
child = os.fork()
if not child:
    os.setgid(5)
    os.setuid(6)
    nameless.send(b"four")
    os._exit(0)
os.waitpid(child, 0)
wait_for_go()
expect("first", received(), (b"one", own, name("living")))
expect("second", received(), (b"two" * 30000, own, name("dead")))
expect("third", received(), (b"", own, None))
expect("fourth", received(), (b"four", (child, 6, 5), None))
nameless.send(b"new")
expect("new", received(), (b"new", own, None))
expect("peer", nameless.getpeername(), name("receiver"))
receiver.sendto(b"back", name("living"))
expect("back", living.recv(100), b"back")
finish()
