"""A netlink socket of CASE[0]: `route` (bound, in groups, answering), `uevent`, or `busy` with an unread answer."""

import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_for_go

NETLINK_ROUTE, NETLINK_KOBJECT_UEVENT = 0, 15
protocol = NETLINK_KOBJECT_UEVENT if CASE[0] == "uevent" else NETLINK_ROUTE
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
netlink.bind((0, 0))


def groups() -> bytes:
    return netlink.getsockopt(270, 9, 64)


def ask_for_link() -> None:
    """RTM_GETLINK of the loopback device, rtnetlink(7)."""
    netlink.send(struct.pack("=IHHII BxHiII", 32, 18, 1, 7, 0, 0, 0, 1, 0, 0))


if protocol == NETLINK_ROUTE:
    for group in (5, 33):
        netlink.setsockopt(270, 1, group)  # NETLINK_ADD_MEMBERSHIP
    netlink.setsockopt(270, 10, 1)  # NETLINK_CAP_ACK
wanted = (netlink.getsockname()[0], groups())
if CASE[0] == "busy":
    ask_for_link()
wait_for_go()
if CASE[0] != "busy":
    expect("port and groups", (netlink.getsockname()[0], groups()), wanted)
if protocol == NETLINK_ROUTE:
    expect("NETLINK_CAP_ACK", netlink.getsockopt(270, 10), 1)
    if CASE[0] != "busy":
        ask_for_link()
    expect("kind of the answer", struct.unpack_from("=IH", netlink.recv(1 << 16))[1], 16)
finish()
