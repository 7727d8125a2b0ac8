"""A raw ICMP socket over CASE[0], connected, with a filter and options; it hears the answer to its own request."""

import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

is_ipv6 = CASE[0] == "6"
family, host = (socket.AF_INET6, "::1") if is_ipv6 else (socket.AF_INET, "127.0.0.1")
protocol = socket.IPPROTO_ICMPV6 if is_ipv6 else socket.IPPROTO_ICMP
level, size = (protocol, 32) if is_ipv6 else (255, 4)
request, answer = (128, 129) if is_ipv6 else (8, 0)
raw = socket.socket(family, socket.SOCK_RAW, protocol)
blocked = bytearray(b"\xff" * size)
blocked[answer // 8] &= ~(1 << answer % 8) & 0xFF
raw.setsockopt(level, 1, bytes(blocked))
hops = (
    (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS)
    if is_ipv6
    else (socket.IPPROTO_IP, socket.IP_TTL)
)
raw.setsockopt(*hops, 33)
raw.bind((host, 0))
raw.connect((host, 0))
wait_for_go()
expect("name", raw.getsockname()[0], host)
expect("filter", raw.getsockopt(level, 1, size), bytes(blocked))
expect("hops", raw.getsockopt(*hops), 33)
body = struct.pack(">HH", 0x1234, 1)
total = (request << 8) + 0x1234 + 1
packet = struct.pack(">BBH", request, 0, ~(total + (total >> 16)) & 0xFFFF) + body
raw.send(packet)
raw.settimeout(30)
heard = raw.recv(100)
expect("answer", heard[0 if is_ipv6 else 20], answer)
finish()
