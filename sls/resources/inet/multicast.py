"""Multicast memberships of ip(7) and ipv6(7) sockets, with their source filters (RFC 3678).

No call lists a socket's groups; but MCAST_MSFILTER tells for each group of the machine whether the socket is in it.
"""

import errno
import socket
import struct
from collections.abc import Sequence
from typing import Final

from sls import proc, syscalls
from sls.resources.base import Record, RestoreContext
from sls.resources.socket_options import strerror

_MCAST_JOIN_GROUP, _MCAST_MSFILTER = 42, 48
_STORAGE_BYTES: Final = 128  # struct sockaddr_storage
_SOURCES_LIMIT: Final = 128
_EXCLUDE: Final = 0
_HEAD: Final = struct.Struct(
    f"=Ixxxx{_STORAGE_BYTES}s"
)  # struct group_req; struct group_filter begins with it
_MODE: Final = struct.Struct("=II")


class Membership(Record, frozen=True):
    """One group on one device. `mode`: whether `sources` are excluded (0) or the only ones (1)."""

    device: str
    group: bytes
    mode: int
    sources: tuple[bytes, ...]


def capture_memberships(view: socket.socket) -> tuple[Membership, ...]:
    """Every group that the socket is in."""
    found = []
    for device, group in proc.multicast_groups():
        if view.family == socket.AF_INET and len(group) != 4:
            continue
        membership = _look(view, device, group)
        if membership is not None:
            found.append(membership)
    return tuple(found)


def restore_memberships(
    ctx: RestoreContext, view: socket.socket, memberships: Sequence[Membership]
) -> None:
    """Join again; a device that is gone becomes a note."""
    for membership in memberships:
        level = _level(membership.group)
        try:
            head = _head(membership.device, membership.group)
            view.setsockopt(level, _MCAST_JOIN_GROUP, head)
            if membership.mode != _EXCLUDE or membership.sources:
                sources = b"".join(_storage(source) for source in membership.sources)
                mode = _MODE.pack(membership.mode, len(membership.sources))
                view.setsockopt(level, _MCAST_MSFILTER, head + mode + sources)
        except OSError as error:
            ctx.note(
                "multicast",
                f"group {membership.group.hex()} on {membership.device}: {strerror(error)}",
            )


def _look(view: socket.socket, device: str, group: bytes) -> Membership | None:
    room = bytes(_STORAGE_BYTES * _SOURCES_LIMIT)
    question = _head(device, group) + _MODE.pack(0, _SOURCES_LIMIT) + room
    try:
        answer = syscalls.query_socket_option(
            view.fileno(), _level(group), _MCAST_MSFILTER, question
        )
    except OSError as error:
        if error.errno not in (errno.EADDRNOTAVAIL, errno.ENOPROTOOPT, errno.EINVAL, errno.ENODEV):
            raise
        return None
    mode, count = _MODE.unpack_from(answer, _HEAD.size)
    start = _HEAD.size + _MODE.size
    places = range(start, start + _STORAGE_BYTES * count, _STORAGE_BYTES)
    return Membership(
        device=device,
        group=group,
        mode=mode,
        sources=tuple(_address(answer[at : at + _STORAGE_BYTES]) for at in places),
    )


def _level(group: bytes) -> int:
    return socket.IPPROTO_IP if len(group) == 4 else socket.IPPROTO_IPV6


def _head(device: str, group: bytes) -> bytes:
    return _HEAD.pack(socket.if_nametoindex(device), _storage(group))


def _storage(address: bytes) -> bytes:
    """struct sockaddr_storage with port 0."""
    if len(address) == 4:
        return struct.pack("=HH4s", socket.AF_INET, 0, address).ljust(_STORAGE_BYTES, b"\0")
    return struct.pack("=HHI16s", socket.AF_INET6, 0, 0, address).ljust(_STORAGE_BYTES, b"\0")


def _address(storage: bytes) -> bytes:
    family = struct.unpack_from("=H", storage)[0]
    return storage[4:8] if family == socket.AF_INET else storage[8:24]
