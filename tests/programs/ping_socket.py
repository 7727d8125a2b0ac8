"""A ping socket over CASE[0], as CASE[1] says: bound, connected, or used without; its answers go on."""

import os
import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

is_ipv6 = CASE[0] == "6"
family, host = (socket.AF_INET6, "::1") if is_ipv6 else (socket.AF_INET, "127.0.0.1")
request, answer = (128, 129) if is_ipv6 else (8, 0)
ping = socket.socket(
    family, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6 if is_ipv6 else socket.IPPROTO_ICMP
)
ping.settimeout(30)
hops = (
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
    if is_ipv6
    else (socket.IPPROTO_IP, socket.IP_TTL)
)
ping.setsockopt(*hops, 33)


def echo(sequence: int) -> None:
    packet = struct.pack(">BBHHH", request, 0, 0, 0, sequence) + b"body"
    if CASE[1] == "connected":
        ping.send(packet)
    else:
        ping.sendto(packet, (host, 0))
    heard = ping.recv(100)
    kind, _, _, identifier, number = struct.unpack_from(">BBHHH", heard)
    expect("answer", (kind, number, heard[8:]), (answer, sequence, b"body"))
    expect("identifier", identifier, ping.getsockname()[1])


if CASE[1] == "bound":
    ping.bind((host, 1 + os.getpid() % 65000))
if CASE[1] == "connected":
    ping.connect((host, 0))
if CASE[1] != "unused":
    echo(1)
name = ping.getsockname()
wait_for_go()
expect("name", ping.getsockname(), name)
expect("hops", ping.getsockopt(*hops), 33)
for sequence in range(2, 5):
    echo(sequence)
finish()
