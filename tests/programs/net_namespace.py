"""A process in a network namespace with loopback alone, settings changed: TCP inside, UDP queued, unix, a listener.

CASE[0]: `kept`; `down`: the device is down, and sockets are only made; `device`, `address`: what is refused.
"""

import ctypes
import fcntl
import os
import socket
import struct
import subprocess

from tests.programs.protocol import CASE, expect, finish, wait_for_go

SETTING = "/proc/sys/net/ipv4/ip_unprivileged_port_start"
mode = CASE[0]
outside = socket.create_server(("127.0.0.1", 0))
expect("unshare", ctypes.CDLL(None).unshare(0x40000000), 0)
if mode != "down":
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, 0x8914, struct.pack("=16sh22x", b"lo", 1))
with open(SETTING, "w", encoding="ascii") as file:
    file.write("77")
if mode in ("device", "address"):
    words = "link add d0 type bridge" if mode == "device" else "address add 10.9.8.7/32 dev lo"
    expect("ip", subprocess.run(["ip", *words.split()], check=False).returncode, 0)

listener = socket.socket()
port = outside.getsockname()[1]
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
if mode != "down":
    listener.bind(("127.0.0.1", port))
    listener.listen(3)
    client = socket.create_connection(("127.0.0.1", port))
    server = listener.accept()[0]
    server.send(b"unread")
    udp.bind(("127.0.0.1", port))
    udp.sendto(b"datagram", ("127.0.0.1", port))
name = b"\0net-namespace-test"
unix = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
unix.bind(name)
unix.sendto(b"message", name)
wait_for_go()
link = os.readlink("/proc/self/ns/net")
expect("apart", link == os.readlink(f"/proc/{os.getppid()}/ns/net"), False)
with open(SETTING, encoding="ascii") as file:
    expect("setting", file.read(), "77\n")
expect("unix", unix.recv(100), b"message")
expect("outside", outside.getsockname(), ("127.0.0.1", port))
if mode != "down":
    expect("unread", client.recv(100), b"unread")
    client.send(b"answer")
    expect("answer", server.recv(100), b"answer")
    expect("datagram", udp.recvfrom(100), (b"datagram", ("127.0.0.1", port)))
    with socket.create_connection(("127.0.0.1", port)) as more:
        more.send(b"more")
        expect("new connection", listener.accept()[0].recv(100), b"more")
os.set_blocking(outside.fileno(), False)
try:
    expect("nobody from inside", outside.accept(), "EAGAIN")
except BlockingIOError:
    finish()
