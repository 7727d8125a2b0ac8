"""Empty messages in a queue, at its head and behind: CASE[0] is `udp`, or DGRAM or SEQPACKET of unix(7)."""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

if CASE[0] == "udp":
    reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reader.bind(("127.0.0.1", 0))
    writer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    writer.connect(reader.getsockname())
else:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SocketKind[f"SOCK_{CASE[0]}"])
WORDS = [b"", b"one", b"", b"", b"two", b"one", b""]
for word in WORDS:
    writer.send(word)
wait_for_go()
writer.send(b"end")
expect("queue", [reader.recv(100) for _ in [*WORDS, b"end"]], [*WORDS, b"end"])
finish()
