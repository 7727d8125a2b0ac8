"""A program that peeks itself (SO_PEEK_OFF): CASE[0] is `STREAM`, `DGRAM`, `SEQPACKET` of unix(7), `udp` or `tcp`."""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

if CASE[0] == "udp":
    reader = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    reader.bind(("127.0.0.1", 0))
    writer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    writer.connect(reader.getsockname())
elif CASE[0] == "tcp":
    with socket.create_server(("127.0.0.1", 0)) as listener:
        writer = socket.create_connection(listener.getsockname())
        reader = listener.accept()[0]
else:
    reader, writer = socket.socketpair(socket.AF_UNIX, socket.SocketKind[f"SOCK_{CASE[0]}"])
for word in (b"first", b"second", b"third"):
    writer.send(word)
reader.setsockopt(socket.SOL_SOCKET, 42, 0)
expect("peeked first", reader.recv(5, socket.MSG_PEEK), b"first")
expect("offset", reader.getsockopt(socket.SOL_SOCKET, 42), 5)
wait_for_go()
expect("offset", reader.getsockopt(socket.SOL_SOCKET, 42), 5)
expect("peeked second", reader.recv(6, socket.MSG_PEEK), b"second")
expect("read", [reader.recv(count) for count in (5, 6, 5)], [b"first", b"second", b"third"])
finish()
