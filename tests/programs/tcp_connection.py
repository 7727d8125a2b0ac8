"""A TCP connection over CASE[0] with both ends inside, the client's in a child, dup'ed; CASE[1] is what it is in.

`idle`, `queued` (unread bytes each way), `full` (the client wrote until no more went in), `half` (the client is shut
for writing), `waiting` (not accepted yet), `ended` (shut both ways).
"""

import os
import socket
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

host, mode = CASE
family = socket.AF_INET6 if ":" in host else socket.AF_INET
loopback = "::1" if family == socket.AF_INET6 else "127.0.0.1"
listener = socket.socket(family, socket.SOCK_STREAM)
listener.bind((host, 0))
listener.listen(4)
address = (loopback, listener.getsockname()[1])
ready_read, ready_write = os.pipe()


PERIOD = bytes(index * 11 & 0xFF for index in range(256))


def pattern(start: int, count: int) -> bytes:
    return (PERIOD * (count // 256 + 2))[start % 256 :][:count]


def fill(end: socket.socket) -> int:
    end.setblocking(False)
    written = 0
    try:
        while True:
            written += end.send(pattern(written, 1 << 16))
    except BlockingIOError:
        end.setblocking(True)
        return written


def read_exactly(end: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (piece := end.recv(count - len(data))):
        data += piece
    return data


def run_client() -> None:
    client = socket.create_connection(address)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    copy = socket.socket(fileno=os.dup(client.fileno()))
    written = 0
    if mode in ("queued", "half", "ended"):
        written = client.send(pattern(0, 1000))
    if mode == "full":
        written = fill(client)
    if mode in ("half", "ended"):
        client.shutdown(socket.SHUT_WR)
    names = (client.getsockname(), client.getpeername())
    os.write(ready_write, f"{names[0][1]} {written}\n".encode())
    wait_along()
    if mode == "ended":
        expect("end", read_exactly(client, 1001), pattern(5, 1000))
        sys.exit(0)
    expect("names", (client.getsockname(), copy.getpeername()), names)
    expect("TCP_NODELAY", copy.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY), 1)
    if mode == "queued":
        expect("client's queue", read_exactly(client, 500), pattern(7, 500))
    if mode == "half":
        try:
            copy.send(b"no")
            expect("send behind a shutdown", "success", "EPIPE")
        except BrokenPipeError:
            pass
    else:
        client.send(b"from the client")
    expect("answer", client.recv(100), b"answer")
    client.close()
    copy.close()
    sys.exit(0)


child = os.fork()
if not child:
    run_client()
server = None if mode == "waiting" else listener.accept()[0]
port, written = map(int, os.read(ready_read, 100).split())
if server is not None:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    if mode == "queued":
        server.send(pattern(7, 500))
    if mode == "ended":
        expect("client's words", read_exactly(server, 1001), pattern(0, 1000))
        server.send(pattern(5, 1000))
        server.shutdown(socket.SHUT_WR)
wait_for_go()
if server is None:
    server = listener.accept()[0]
if mode == "ended":
    expect("end", server.recv(10), b"")
else:
    expect("peer", server.getpeername()[:2], (loopback, port))
    expect("own name", server.getsockname()[:2], address)
    expect(
        "SO_KEEPALIVE",
        server.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE),
        int(mode != "waiting"),
    )
    expect("server's queue", read_exactly(server, written) == pattern(0, written), True)
    expect("more", read_exactly(server, 15), b"" if mode == "half" else b"from the client")
    server.send(b"answer")
    expect("end", server.recv(100), b"")
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
second = socket.create_connection(address)
third = listener.accept()[0]
third.send(b"new")
expect("new connection", second.recv(100), b"new")
finish()
