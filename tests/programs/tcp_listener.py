"""Listens on CASE[0] (host) with backlog CASE[1] and CASE[2] (`plain`, `reuse`); a child holds the socket as well.

With `pending` in CASE[3], a client from outside waits to be accepted.
"""

import os
import socket
import struct
import sys
import time

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

host, backlog, mode = CASE[0], int(CASE[1]), CASE[2]
family = socket.AF_INET6 if ":" in host else socket.AF_INET
OPTIONS = [
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 77),
    (socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 0),
    (socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 12345),
    (socket.IPPROTO_IP, socket.IP_TOS, 0x10),
]


def waiting(listener: socket.socket) -> int:
    return int(struct.unpack_from("=I", info_of(listener), 24)[0])


def backlog_of(listener: socket.socket) -> int:
    return int(struct.unpack_from("=I", info_of(listener), 28)[0])


def info_of(listener: socket.socket) -> bytes:
    return listener.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)


listener = socket.socket(family, socket.SOCK_STREAM)
if mode == "reuse":
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
for level, number, value in OPTIONS:
    listener.setsockopt(level, number, value)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 50000)
listener.bind((host, 0))
listener.listen(backlog)
address = listener.getsockname()
limit = backlog_of(listener)
with open("address.new", "w", encoding="ascii") as file:
    file.write(f"{address[0]} {address[1]}")
os.rename("address.new", "address")
while "pending" in CASE and not waiting(listener):
    time.sleep(0.005)
child = os.fork()
if not child:
    wait_along()
    accepted, _ = listener.accept()
    accepted.sendall(b"from the child")
    sys.exit(0)
wait_for_go()
expect("address", listener.getsockname(), address)
expect("backlog", backlog_of(listener), limit)
expect(
    "SO_REUSEADDR",
    listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR),
    int(mode == "reuse"),
)
expect(
    "SO_REUSEPORT",
    listener.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT),
    int(mode == "reuse"),
)
expect("SO_RCVBUF", listener.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF), 100000)
for level, number, value in OPTIONS:
    expect(f"option {level}/{number}", listener.getsockopt(level, number), value)
with socket.create_connection(address[:2], timeout=30) as client:
    expect("words", client.recv(100), b"from the child")
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
finish()
