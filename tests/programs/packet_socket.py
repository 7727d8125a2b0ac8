"""A packet socket: CASE is bound (to lo, with options, memberships, a fanout), everywhere, fresh, unread, ring."""

import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

SOL_PACKET = 263
ADD_MEMBERSHIP, DROP_MEMBERSHIP, RX_RING, AUXDATA, FANOUT = 1, 2, 5, 8, 18
PROTOCOL = 0x88B5  # for experiments on a local network
FRAME = bytes(12) + PROTOCOL.to_bytes(2, "big")


def is_promiscuous() -> bool:
    """Whether lo is, by anybody's wish."""
    with open("/sys/class/net/lo/flags", encoding="ascii") as file:
        return bool(int(file.read(), 16) & 0x100)


def receive(found: socket.socket, wanted: bytes) -> None:
    """The next frame of ours; lo shows each twice: as it leaves and as it comes."""
    sender = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sender.sendto(FRAME + wanted, ("lo", PROTOCOL))
    found.settimeout(30)
    while True:
        data, address = found.recvfrom(2048)
        if data[:14] == FRAME and data[14:] == wanted:
            expect("device", address[0], "lo")
            return


case = CASE[0]
index = socket.if_nametoindex("lo")
PROMISCUOUS = struct.pack("=iHH8s", index, 1, 0, b"")
if case == "fresh":
    found = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
elif case == "everywhere":
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(PROTOCOL))
else:
    found = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    found.setsockopt(SOL_PACKET, AUXDATA, 1)
    if case == "ring":
        found.setsockopt(SOL_PACKET, RX_RING, struct.pack("=4I", 4096, 1, 2048, 2))
    else:
        for _ in range(2):
            found.setsockopt(SOL_PACKET, ADD_MEMBERSHIP, PROMISCUOUS)
    found.bind(("lo", PROTOCOL))
    if case == "bound":
        found.setsockopt(SOL_PACKET, FANOUT, 77)
if case == "unread":
    receive(found, b"taken")
    socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0).sendto(FRAME, ("lo", PROTOCOL))
wait_for_go()
expect("type", found.type, socket.SOCK_DGRAM if case == "fresh" else socket.SOCK_RAW)
name = {"fresh": ("", 0), "everywhere": ("", PROTOCOL)}.get(case, ("lo", PROTOCOL))
expect("name", found.getsockname()[:2], name)
if case in ("bound", "unread"):
    expect("auxdata", found.getsockopt(SOL_PACKET, AUXDATA), 1)
    for _ in range(2):  # made twice, so it is there until it was dropped twice
        expect("promiscuous", is_promiscuous(), True)
        found.setsockopt(SOL_PACKET, DROP_MEMBERSHIP, PROMISCUOUS)
if case == "bound":
    expect("fanout", found.getsockopt(SOL_PACKET, FANOUT), 77)
if case not in ("fresh", "ring"):
    receive(found, b"hello")
finish()
