"""A socket of CASE[0] (`tcp`, `tcp6`, `udp`, `udp6`, `unix`) with every option that takes it set to another value."""

import ctypes
import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

KINDS = {
    "tcp": (socket.AF_INET, socket.SOCK_STREAM),
    "tcp6": (socket.AF_INET6, socket.SOCK_STREAM),
    "udp": (socket.AF_INET, socket.SOCK_DGRAM),
    "udp6": (socket.AF_INET6, socket.SOCK_DGRAM),
    "unix": (socket.AF_UNIX, socket.SOCK_STREAM),
}
LEVELS = {
    "unix": (socket.SOL_SOCKET,),
    "tcp": (socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP),
    "tcp6": (socket.SOL_SOCKET, socket.IPPROTO_TCP, socket.IPPROTO_IP, socket.IPPROTO_IPV6),
    "udp": (socket.SOL_SOCKET, socket.IPPROTO_UDP, socket.IPPROTO_IP),
    "udp6": (socket.SOL_SOCKET, socket.IPPROTO_UDP, socket.IPPROTO_IP, socket.IPPROTO_IPV6),
}
# Not settings: SO_TYPE, SO_ERROR, SO_RCVBUFFORCE and the like, what acts at once, or is refused by the capture.
ACTIONS = {
    socket.SOL_SOCKET: "3 4 14 17 24 26 27 28 30 31 32 33 38 39 44 48 49 50 51 52 53 54 55 56 57 59 62 66 67 68 "
    "71 77 78 79",
    socket.IPPROTO_TCP: "11 12 14 15 17 19 20 21 22 24 26 28 29 31 32 33 35 38 39 40 41 42 43",
    socket.IPPROTO_IP: "5 9 14 16 17 35 36 37 38 39 40 41 42 43 44 45 46 47 48 64 65 66 67 68 69 83",
    socket.IPPROTO_IPV6: "1 6 9 20 21 24 27 28 32 34 35 36 42 43 44 45 46 47 48 50 52 54 55 57 59 61 64 65 68 69 80",
    socket.IPPROTO_UDP: "100",
}
OTHERS = (1, 2, 3, 5, 7, 100, 1000, 40000, 0)


def read(level: int, number: int) -> bytes | None:
    try:
        return made.getsockopt(level, number, 4)
    except OSError:
        return None


def change(level: int, number: int) -> bool:
    before = read(level, number)
    for value in OTHERS:
        try:
            made.setsockopt(level, number, value)
        except OSError:
            continue
        if read(level, number) != before:
            return True
    return False


made = socket.socket(*KINDS[CASE[0]])
wide = [
    (socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 7)),
    (socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("=qq", 3, 240000)),
    (socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("=qq", 4, 500000)),
    (socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0"),
]
if CASE[0].startswith("tcp"):
    wide.append((socket.IPPROTO_TCP, socket.TCP_CONGESTION, b"reno".ljust(16, b"\0")))
    wide.append((socket.IPPROTO_TCP, 33, bytes(range(16))))  # TCP_FASTOPEN_KEY
if CASE[0].endswith("6"):
    padding = bytes((0, 0, 1, 4, 0, 0, 0, 0))
    wide += [(socket.IPPROTO_IPV6, number, padding) for number in (54, 59)]  # HOPOPTS, DSTOPTS
    wide.append((socket.IPPROTO_IPV6, 57, bytes((0, 2, 4, 0)) + bytes(20)))  # RTHDR, of segments
wide.append((socket.SOL_SOCKET, 49, struct.pack("=i", 1)))  # SO_INCOMING_CPU
changed = [
    (level, number)
    for level in LEVELS[CASE[0]]
    for number in range(1, 110)
    if str(number) not in ACTIONS[level].split() and change(level, number)
]
for level, number, value in wide:
    made.setsockopt(level, number, value)
instructions = struct.pack("=HBBI", 0x06, 0, 0, 0xFFFF)  # return 65535: let everything in
if CASE[0] == "udp":
    program = ctypes.create_string_buffer(instructions, 8)
    made.setsockopt(socket.SOL_SOCKET, 26, struct.pack("=HxxxxxxQ", 1, ctypes.addressof(program)))
    made.setsockopt(socket.SOL_SOCKET, 44, 1)
wanted = {option: read(*option) for option in changed}
expect("many", len(changed) > {"unix": 10}.get(CASE[0], 20), True)
wait_for_go()
found = {option: read(*option) for option in changed}
expect(
    "options", {key: (found[key], wanted[key]) for key in found if found[key] != wanted[key]}, {}
)
for level, number, value in wide:
    expect(f"{level}/{number}", made.getsockopt(level, number, 32)[: len(value)], value)
if CASE[0] == "udp":
    expect("filter", made.getsockopt(socket.SOL_SOCKET, 26, 8)[:1], instructions[:1])
    expect("lock", made.getsockopt(socket.SOL_SOCKET, 44), 1)
finish()
