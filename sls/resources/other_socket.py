"""Sockets of families that are not kept: each is refused with its name. Behind all kinds of sockets in the register.

Not kept: all of it: refused.
Kernel: any.
"""

import socket
from typing import Final, NoReturn

from sls.resources.base import CaptureContext, FileRecord, FileType, OpenFile
from sls.resources.socket_options import SocketKind, is_socket
from sls.resources.socket_sight import socket_kind

# include/linux/socket.h: those that Python has no name for
_FAMILIES: Final = {
    24: "AF_PPPOX",
    27: "AF_IB",
    28: "AF_MPLS",
    30: "AF_TIPC",
    41: "AF_KCM",
    44: "AF_XDP",
    45: "AF_MCTP",
}
_PROTOCOLS: Final = {132: "SCTP", 136: "UDP-Lite", 262: "MPTCP", 1: "ICMP", 58: "ICMPv6"}


class OtherSocketRecord(FileRecord, frozen=True, tag="other_socket"):
    """There is none."""


class OtherSocket(FileType[OtherSocketRecord]):
    """What cannot be kept."""

    record = OtherSocketRecord
    is_of_sockets = True

    def matches(self, file: OpenFile) -> bool:
        return is_socket(file)

    def capture(self, ctx: CaptureContext, file: OpenFile) -> NoReturn:
        raise file.unsupported(f"{describe(socket_kind(file))} is not supported; close it first")


def describe(kind: SocketKind) -> str:
    """Family, type and protocol in words."""
    try:
        family = socket.AddressFamily(kind.domain).name
    except ValueError:
        family = _FAMILIES.get(kind.domain, f"family {kind.domain}")
    try:
        type_name = socket.SocketKind(kind.type).name
    except ValueError:
        type_name = f"type {kind.type}"
    if kind.domain in (socket.AF_INET, socket.AF_INET6):
        protocol = _PROTOCOLS.get(kind.protocol, f"protocol {kind.protocol}")
    else:
        protocol = f"protocol {kind.protocol}"
    return f"a socket of {family}, {type_name}, {protocol}"
