"""A UDP socket in a group of IPv4 or IPv6 (CASE[0]) on the loopback device, of `any` source or of one (CASE[1])."""

import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

is_ipv6, mode = CASE[0] == "6", CASE[1]
family, level = (socket.AF_INET6, 41) if is_ipv6 else (socket.AF_INET, 0)
group, loopback = ("ff01::4:3:2:1", "::1") if is_ipv6 else ("239.77.66.55", "127.0.0.1")
index = socket.if_nametoindex("lo")


def storage(host: str) -> bytes:
    packed = socket.inet_pton(family, host)
    head = struct.pack("=HHI", family, 0, 0) if is_ipv6 else struct.pack("=HH", family, 0)
    return (head + packed).ljust(128, b"\0")


receiver = socket.socket(family, socket.SOCK_DGRAM)
receiver.bind((group, 0, 0, index) if is_ipv6 else (group, 0))
port = receiver.getsockname()[1]
if mode == "any":
    receiver.setsockopt(level, 42, struct.pack("=Ixxxx", index) + storage(group))
else:
    receiver.setsockopt(
        level, 46, struct.pack("=Ixxxx", index) + storage(group) + storage(loopback)
    )
wait_for_go()
if (
    is_ipv6
):  # the loopback device has no multicast route: leaving fails unless the socket is in the group
    joined = struct.pack("=Ixxxx", index) + storage(group)
    receiver.setsockopt(
        level, *((45, joined) if mode == "any" else (47, joined + storage(loopback)))
    )
    finish()
receiver.settimeout(30)
for source in ("127.0.0.2", loopback):
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.setsockopt(0, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
        sender.bind((source, 0))
        sender.sendto(source.encode(), (group, port))
for source in ("127.0.0.2", loopback) if mode == "any" else (loopback,):
    expect("source", receiver.recvfrom(100)[0], source.encode())
finish()
