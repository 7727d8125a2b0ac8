"""Put datagrams into a UDP socket's queue as if their senders had sent them: raw(7) packets over the loopback device.

Needs CAP_NET_RAW. A packet looped back keeps its route, so any source address is taken (no reverse-path filter).
"""

import ipaddress
import socket
import struct
import time
from collections.abc import Sequence
from typing import Final

from sls.resources.base import Record
from sls.resources.inet.address import InetAddress

_DEADLINE_S: Final = 1.0
_HOPS: Final = 64
_SO_MEMINFO: Final = 55


class Datagram(Record, frozen=True):
    """One datagram and who sent it."""

    data: bytes
    sender: InetAddress


def inject(view: socket.socket, local: InetAddress, queue: Sequence[Datagram]) -> int:
    """Queue all of them in order; returns how many arrived (fewer when the machine's firewall drops them)."""
    return sum(_arrives(view, local, datagram) for datagram in queue)


def _arrives(view: socket.socket, local: InetAddress, datagram: Datagram) -> bool:
    """Send, and wait until the queue has grown: packets on the loopback device may be delivered a moment later."""
    before = _queue_memory(view)
    _send(local, datagram)
    deadline = time.monotonic() + _DEADLINE_S
    while (now := _queue_memory(view)) <= before and time.monotonic() < deadline:
        time.sleep(0.0005)
    return now > before


def _queue_memory(view: socket.socket) -> int:
    """SK_MEMINFO_RMEM_ALLOC of SO_MEMINFO, socket(7): memory of what is queued; peeking would mark empty datagrams."""
    found: int = struct.unpack_from("=I", view.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 36))[0]
    return found


def _send(local: InetAddress, datagram: Datagram) -> None:
    source = _plain(datagram.sender.host)
    target = _plain(local.host)
    if target.is_unspecified or target.version != source.version:
        target = ipaddress.ip_address("127.0.0.1" if source.version == 4 else "::1")
    head = struct.pack(">HHH", datagram.sender.port, local.port, 8 + len(datagram.data))
    if source.version == 4:
        _send_ipv4(source.packed, target.packed, head, datagram.data)
    else:
        _send_ipv6(source.packed, target.packed, head, datagram.data, local.scope_id)


def _plain(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The address; an IPv4 one in IPv6's clothes as IPv4."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def _send_ipv4(source: bytes, target: bytes, head: bytes, data: bytes) -> None:
    length = 28 + len(data)
    packet = struct.pack(
        ">BBHHHBBH4s4s", 0x45, 0, length, 0, 0, _HOPS, socket.IPPROTO_UDP, 0, source, target
    )
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        # checksum 0 of UDP over IPv4: none (RFC 768); the kernel fills in the header's own, raw(7)
        raw.sendto(packet + head + b"\0\0" + data, (socket.inet_ntop(socket.AF_INET, target), 0))


def _send_ipv6(source: bytes, target: bytes, head: bytes, data: bytes, scope: int) -> None:
    length = 8 + len(data)
    packet = struct.pack(
        ">IHBB16s16s", 0x60000000, length, socket.IPPROTO_UDP, _HOPS, source, target
    )
    pseudo = source + target + struct.pack(">II", length, socket.IPPROTO_UDP)
    checksum = _checksum(pseudo + head + b"\0\0" + data)
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        where = (socket.inet_ntop(socket.AF_INET6, target), 0, 0, scope)
        raw.sendto(packet + head + checksum + data, where)


def _checksum(data: bytes) -> bytes:
    """RFC 1071; 0 is sent as all ones (RFC 8200)."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF or 0xFFFF)
