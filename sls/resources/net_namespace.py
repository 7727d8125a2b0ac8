"""Network namespaces (network_namespaces(7)) with the loopback device alone, its settings, and the sockets in it.

A namespace that is the restorer's stays that; any other is made anew, once for all threads that were in it. Sockets are
made in the one that they are of (`sls.network`).

Not kept: other devices, more addresses, packet filters: refused; added routes; connections to others in it, told.
Kernel: Linux 5.14 (SO_NETNS_COOKIE).
"""

import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from functools import partial
from typing import Final, NamedTuple

from sls import syscalls
from sls.child import told_by_child
from sls.freeze import FrozenThread
from sls.remote import Remote
from sls.resources.base import CapturedProcess, RestoreContext
from sls.resources.own_namespace import ThreadNamespace, ThreadNamespaceRecord
from sls.stay import NEW_NET

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 1
_REQUEST = struct.Struct("=16sh22x")  # struct ifreq
_SYSCTL: Final = "/proc/sys/net"
_HEADER = struct.Struct("=IHHII")
_DUMP, _DONE, _ERROR = 0x301, 3, 2
_NETLINK_NETFILTER, _GET_TABLE = 12, 10 << 8 | 1
_GET_ADDRESS, _IFA_ADDRESS = 22, 1
_USUAL: Final = {socket.inet_aton("127.0.0.1"), socket.inet_pton(socket.AF_INET6, "::1")}


class NetNamespaceRecord(ThreadNamespaceRecord, frozen=True, tag="net-namespace"):
    """`settings`: files of /proc/sys/net that are not as in a fresh one."""

    is_up: bool = False
    settings: tuple[tuple[str, bytes], ...] = ()


class NetNamespace(ThreadNamespace[NetNamespaceRecord]):
    """What a socket can reach."""

    name, flag = "net", NEW_NET
    record = NetNamespaceRecord

    def capture_own(
        self, process: CapturedProcess, thread: FrozenThread, link: bytes
    ) -> Remote[NetNamespaceRecord]:
        yield from ()
        look = partial(self.look_inside, thread.tid, _look, _Inside)
        inside: _Inside = process.looks.at_leisure(("inside", link), look)
        fresh: _Inside = process.memo.of("fresh net namespace", b"", _fresh)
        if excess := _excess(inside, fresh):
            raise process.unsupported(
                "namespaces",
                f"a net namespace of its own with {' and '.join(excess)} cannot be made again; "
                "run it with the loopback device alone, or on the machine's network",
            )
        settings = set(inside.settings) - set(fresh.settings)
        return NetNamespaceRecord(link=link, is_up=inside.is_up, settings=tuple(sorted(settings)))

    def prepare(self, ctx: RestoreContext, record: NetNamespaceRecord) -> None:
        if record.link:
            ctx.networks[record.link] = self.made(ctx, record)

    def settle(self, ctx: RestoreContext, record: NetNamespaceRecord) -> None:
        if record.is_up:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
                fcntl.ioctl(any_socket, _SIOCSIFFLAGS, _REQUEST.pack(b"lo", _flags() | _IFF_UP))
        for path, value in record.settings:
            with open(path, "wb", buffering=0) as file:
                file.write(value)


class _Inside(NamedTuple):
    devices: list[str]
    addresses: list[bytes]
    has_filter: bool
    is_up: bool
    settings: list[tuple[str, bytes]]


def _excess(inside: _Inside, fresh: _Inside) -> list[str]:
    """What a new namespace would lack, in words."""
    found = [f"the device {name}" for name in inside.devices if name not in fresh.devices]
    found += [f"the address {_text(one)}" for one in inside.addresses if one not in _USUAL]
    return found + ["a packet filter"] * inside.has_filter


def _text(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _fresh() -> _Inside:
    def work() -> _Inside:
        syscalls.syscall("unshare", NEW_NET)
        return _look()

    return told_by_child(work, _Inside)


def _look() -> _Inside:
    """In a child, in the namespace."""
    with open("/proc/thread-self/net/dev", encoding="ascii") as file:
        devices = [line.split(":")[0].strip() for line in file.readlines()[2:]]
    return _Inside(
        devices=devices,
        addresses=[address for row in _dump(0, _GET_ADDRESS) for address in _addresses(row)],
        has_filter=any(True for _ in _dump(_NETLINK_NETFILTER, _GET_TABLE)),
        is_up=bool(_flags() & _IFF_UP),
        settings=list(_settings()),
    )


def _flags() -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        answer = fcntl.ioctl(any_socket, _SIOCGIFFLAGS, _REQUEST.pack(b"lo", 0))
    flags: int = _REQUEST.unpack(answer)[1]
    return flags


def _settings() -> Iterator[tuple[str, bytes]]:
    for folder, _, names in os.walk(_SYSCTL):
        for name in names:
            try:
                with open(f"{folder}/{name}", "rb") as file:
                    yield f"{folder}/{name}", file.read()
            except OSError:
                continue  # one that can only be written, or of a device that is down


def _dump(protocol: int, kind: int) -> Iterator[bytes]:
    """Every object of that kind; none where the kernel has not the protocol."""
    try:
        netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
    except OSError:
        return
    with netlink:
        netlink.send(_HEADER.pack(20, kind, _DUMP, 1, 0) + bytes(4))
        while True:
            data, position = netlink.recv(1 << 16), 0
            while position < len(data):
                length, found, *_ = _HEADER.unpack_from(data, position)
                if found in (_DONE, _ERROR):
                    return
                yield data[position + _HEADER.size : position + length]
                position += (length + 3) & ~3


def _addresses(row: bytes) -> Iterator[bytes]:
    """Of a struct ifaddrmsg with its attributes."""
    position = 8
    while position + 4 <= len(row):
        length, kind = struct.unpack_from("=HH", row, position)
        if kind == _IFA_ADDRESS:
            yield row[position + 4 : position + length]
        position += (length + 3) & ~3
