"""A socketpair of CASE[0] (`STREAM`, `DGRAM`, `SEQPACKET`), CASE[1] messages of CASE[2] bytes queued each way.

One end is shared with a child by fork, the other one duplicated; CASE[3] is `open`, `shut` (one half) or `closed`.
"""

import os
import socket
import struct
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

kind, count, size, mode = socket.SocketKind[f"SOCK_{CASE[0]}"], int(CASE[1]), int(CASE[2]), CASE[3]
is_stream = kind == socket.SOCK_STREAM


def messages(first: int) -> list[bytes]:
    return [bytes([first + index & 0xFF]) * size for index in range(count)]


def drain(end: socket.socket) -> list[bytes]:
    if is_stream:
        return (
            [end.recv(1 << 20, socket.MSG_WAITALL) for _ in range(1)]
            if mode != "open"
            else [end.recv(size * count, socket.MSG_WAITALL)]
        )
    return [end.recv(1 << 20) for _ in range(count)]


def credentials(end: socket.socket) -> tuple[int, ...]:
    return struct.unpack("=3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


os.setgroups([7, 8])
left, right = socket.socketpair(socket.AF_UNIX, kind)
left.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
right.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 18)
for data in messages(1):
    left.send(data)
if mode == "open":
    for data in messages(101):
        right.send(data)
copy = socket.socket(fileno=os.dup(right.fileno()))
right.close()
wanted = credentials(copy)
expect("own credentials", wanted, (os.getpid(), os.getuid(), os.getgid()))
if mode == "shut":
    left.shutdown(socket.SHUT_WR)
if mode == "closed":
    left.close()
child = os.fork() if mode == "open" else 0
if mode == "open" and not child:
    wait_along()
    expect(
        "queue in the child",
        b"".join(drain(left)) if is_stream else drain(left),
        b"".join(messages(101)) if is_stream else messages(101),
    )
    left.send(b"from the child")
    sys.exit(0)
wait_for_go()
for end in (copy,) if mode == "closed" else (left, copy):
    expect("SO_PEERCRED", credentials(end), wanted)
    groups = end.getsockopt(socket.SOL_SOCKET, 59, 64)
    expect("SO_PEERGROUPS", struct.unpack("=2I", groups), (7, 8))
expect("SO_SNDBUF", copy.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF), 1 << 19)
expected = [b"".join(messages(1))] if is_stream else messages(1)
expect("queue", drain(copy), expected)
if mode == "open":
    expect("answer", copy.recv(100), b"from the child")
    expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
else:
    if kind != socket.SOCK_DGRAM:
        expect("end", copy.recv(100), b"")
    if mode == "shut":
        copy.send(b"back")
        expect("back", left.recv(100), b"back")
        try:
            left.send(b"no")
            expect("send after shutdown", "success", "EPIPE")
        except BrokenPipeError:
            pass
    else:
        try:
            copy.send(b"no")
            expect("send to a closed end", "success", "an error")
        except (BrokenPipeError, ConnectionRefusedError):
            pass
finish()
