"""Socket options: what getsockopt(2) reads and setsockopt(2) takes, of socket(7), ip(7), ipv6(7), tcp(7), udp(7),
netlink(7) and packet(7).

Not a resource of its own: part of the record of each kind of socket. An option is kept, and set, only where the socket
differs from a fresh one, so what the program never touched follows the machine's defaults.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Final, NamedTuple

from sls import syscalls
from sls.resources.base import OpenFile, Record, RestoreContext

_SOL_UDP: Final = 17
_SOL_NETLINK: Final = 270
_SOL_PACKET: Final = 263
_INT: Final = 4
_TIMEVAL: Final = 16
_SO_SNDBUF, _SO_RCVBUF, _SO_SNDBUFFORCE, _SO_RCVBUFFORCE = 7, 8, 32, 33
SO_ATTACH_FILTER, SO_LOCK_FILTER = 26, 44
_SO_PEEK_OFF: Final = 42

# Numbers of include/uapi/asm-generic/socket.h; in the order in which they are set. SO_PRIORITY stands behind IP_TOS,
# which changes it; a filter (SO_ATTACH_FILTER) and its lock come last.
_SOCKET: Final = (
    (1, _INT),  # SO_DEBUG
    (2, _INT),  # SO_REUSEADDR
    (5, _INT),  # SO_DONTROUTE
    (6, _INT),  # SO_BROADCAST
    (_SO_SNDBUF, _INT),
    (_SO_RCVBUF, _INT),
    (72, _INT),  # SO_BUF_LOCK: whether the sizes were set by the program
    (9, _INT),  # SO_KEEPALIVE
    (10, _INT),  # SO_OOBINLINE
    (11, _INT),  # SO_NO_CHECK
    (13, 8),  # SO_LINGER
    (15, _INT),  # SO_REUSEPORT
    (16, _INT),  # SO_PASSCRED
    (18, _INT),  # SO_RCVLOWAT
    (20, _TIMEVAL),  # SO_RCVTIMEO
    (21, _TIMEVAL),  # SO_SNDTIMEO
    (25, 16),  # SO_BINDTODEVICE
    (29, _INT),  # SO_TIMESTAMP
    (34, _INT),  # SO_PASSSEC
    (35, _INT),  # SO_TIMESTAMPNS
    (36, _INT),  # SO_MARK
    (37, 8),  # SO_TIMESTAMPING
    (40, _INT),  # SO_RXQ_OVFL
    (41, _INT),  # SO_WIFI_STATUS
    (_SO_PEEK_OFF, _INT),
    (43, _INT),  # SO_NOFCS
    (45, _INT),  # SO_SELECT_ERR_QUEUE
    (46, _INT),  # SO_BUSY_POLL
    (47, 8),  # SO_MAX_PACING_RATE
    (60, _INT),  # SO_ZEROCOPY
    (61, 8),  # SO_TXTIME
    (63, _INT),  # SO_TIMESTAMP_NEW
    (64, _INT),  # SO_TIMESTAMPNS_NEW
    (69, _INT),  # SO_PREFER_BUSY_POLL
    (73, _INT),  # SO_RESERVE_MEM
    (74, _INT),  # SO_TXREHASH
    (75, _INT),  # SO_RCVMARK
    (76, _INT),  # SO_PASSPIDFD
    (82, _INT),  # SO_RCVPRIORITY
    (83, _INT),  # SO_PASSRIGHTS
)
_IP: Final = (
    (1, _INT),  # IP_TOS
    (2, _INT),  # IP_TTL
    (4, 40),  # IP_OPTIONS
    (8, _INT),  # IP_PKTINFO
    (10, _INT),  # IP_MTU_DISCOVER
    (11, _INT),  # IP_RECVERR
    (12, _INT),  # IP_RECVTTL
    (13, _INT),  # IP_RECVTOS
    (6, _INT),  # IP_RECVOPTS
    (7, _INT),  # IP_RETOPTS
    (15, _INT),  # IP_FREEBIND
    (18, _INT),  # IP_PASSSEC
    (19, _INT),  # IP_TRANSPARENT
    (20, _INT),  # IP_RECVORIGDSTADDR
    (21, _INT),  # IP_MINTTL
    (23, _INT),  # IP_CHECKSUM
    (24, _INT),  # IP_BIND_ADDRESS_NO_PORT
    (25, _INT),  # IP_RECVFRAGSIZE
    (26, _INT),  # IP_RECVERR_RFC4884
    (32, _INT),  # IP_MULTICAST_IF, by address
    (33, _INT),  # IP_MULTICAST_TTL
    (34, _INT),  # IP_MULTICAST_LOOP
    (49, _INT),  # IP_MULTICAST_ALL
    (50, _INT),  # IP_UNICAST_IF
    (51, _INT),  # IP_LOCAL_PORT_RANGE
)
_IP_RAW: Final = ((3, _INT), (22, _INT))  # IP_HDRINCL, IP_NODEFRAG
_EXTENSION_HEADER: Final = 1024  # the most that Python reads
# IPV6_V6ONLY first; then the rest of include/uapi/linux/in6.h that is a number and can be read; then what goes into
# each packet: IPV6_HOPOPTS, RTHDRDSTOPTS, RTHDR, DSTOPTS
_IPV6: Final = (
    *(
        (number, _INT)
        for number in (
            *(26, 2, 3, 4, 5, 8, 11, 16, 17, 18, 19, 23, 25, 29, 30, 31, 33, 49, 51, 53, 56, 58),
            *(60, 62, 66, 67, 70, 72, 73, 74, 75, 76, 77, 78),
        )
    ),
    *((number, _EXTENSION_HEADER) for number in (54, 55, 57, 59)),
)
# accept(2) puts hops and device of the first packet there, and on a stream socket nobody can set them
_OF_DATAGRAMS: Final = {
    (socket.IPPROTO_IP, socket.IP_MULTICAST_TTL),
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_HOPS),
    (socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_IF),
}
_TCP: Final = (
    (1, _INT),  # TCP_NODELAY
    (3, _INT),  # TCP_CORK
    (4, _INT),  # TCP_KEEPIDLE
    (5, _INT),  # TCP_KEEPINTVL
    (6, _INT),  # TCP_KEEPCNT
    (7, _INT),  # TCP_SYNCNT
    (8, _INT),  # TCP_LINGER2
    (9, _INT),  # TCP_DEFER_ACCEPT
    (13, 16),  # TCP_CONGESTION
    (16, _INT),  # TCP_THIN_LINEAR_TIMEOUTS
    (18, _INT),  # TCP_USER_TIMEOUT
    (25, _INT),  # TCP_NOTSENT_LOWAT
    (27, _INT),  # TCP_SAVE_SYN
    (34, _INT),  # TCP_FASTOPEN_NO_COOKIE
    (36, _INT),  # TCP_INQ
    (37, _INT),  # TCP_TX_DELAY
    (44, _INT),  # TCP_RTO_MAX_MS
    (45, _INT),  # TCP_RTO_MIN_US
    (46, _INT),  # TCP_DELACK_MAX_US
)
# A restore sets them on its own account, or by setting another one.
_CHANGED_BY_RESTORE: Final = {
    (socket.SOL_SOCKET, number) for number in (socket.SO_REUSEADDR, _SO_SNDBUF, _SO_RCVBUF, 72, 12)
}
# Before a connection only: the values of an established one are the kernel's own.
_UNCONNECTED: Final = ((49, _INT),)  # SO_INCOMING_CPU
_TCP_UNCONNECTED: Final = (
    (2, _INT),  # TCP_MAXSEG
    (10, _INT),  # TCP_WINDOW_CLAMP
    (23, _INT),  # TCP_FASTOPEN
    (30, _INT),  # TCP_FASTOPEN_CONNECT
    (33, 32),  # TCP_FASTOPEN_KEY, or two
)
_UDP: Final = tuple((number, _INT) for number in (1, 100, 101, 102, 103, 104))
_NETLINK: Final = tuple((number, _INT) for number in (3, 4, 5, 8, 10, 11, 12))
# AUXDATA, ORIGDEV, VERSION, RESERVE, LOSS, VNET_HDR, TIMESTAMP, TX_HAS_OFF, QDISC_BYPASS, IGNORE_OUTGOING
_PACKET: Final = tuple((number, _INT) for number in (8, 9, 10, 12, 14, 15, 17, 19, 20, 23))
_PRIORITY: Final = ((12, _INT),)  # SO_PRIORITY


class SocketOption(Record, frozen=True):
    """One option with the bytes that getsockopt(2) gave."""

    level: int
    number: int
    value: bytes


class SocketKind(NamedTuple):
    """Arguments of socket(2)."""

    domain: int
    type: int
    protocol: int


@contextmanager
def socket_view(fd: int) -> Iterator[socket.socket]:
    """A socket object over a descriptor that stays its owner's."""
    view = socket.socket(fileno=fd)
    try:
        yield view
    finally:
        view.detach()


def is_socket(file: OpenFile) -> bool:
    """Whether the file is a socket."""
    return file.target.startswith(b"socket:[")


def inode_of(file: OpenFile) -> int:
    """The number in the link's text."""
    return int(file.target[8:-1])


@cache
def _table(kind: SocketKind, is_connected: bool) -> tuple[tuple[int, int, int], ...]:
    """(level, number, bytes) of what such a socket may have, in the order in which it is set."""
    groups: list[tuple[int, Sequence[tuple[int, int]]]] = [(socket.SOL_SOCKET, _SOCKET)]
    if kind.domain in (socket.AF_INET, socket.AF_INET6):
        groups.append((socket.IPPROTO_IP, _IP))
        if kind.type == socket.SOCK_RAW:
            groups.append((socket.IPPROTO_IP, _IP_RAW))
        if kind.domain == socket.AF_INET6:
            groups.append((socket.IPPROTO_IPV6, _IPV6))
        if kind.protocol == socket.IPPROTO_TCP:
            groups.append((socket.IPPROTO_TCP, _TCP))
            if not is_connected:
                groups.append((socket.IPPROTO_TCP, _TCP_UNCONNECTED))
        if kind.protocol == socket.IPPROTO_UDP:
            groups.append((_SOL_UDP, _UDP))
    if kind.domain == socket.AF_NETLINK:
        groups.append((_SOL_NETLINK, _NETLINK))
    if kind.domain == socket.AF_PACKET:
        groups.append((_SOL_PACKET, _PACKET))
    if not is_connected:
        groups.append((socket.SOL_SOCKET, _UNCONNECTED))
    groups.append((socket.SOL_SOCKET, _PRIORITY))
    return tuple(
        (level, number, size)
        for level, options in groups
        for number, size in options
        if kind.type != socket.SOCK_STREAM or (level, number) not in _OF_DATAGRAMS
    )


def options_of(kind: SocketKind, *, is_connected: bool) -> tuple[tuple[int, int, int], ...]:
    """(level, number, bytes) of every option that such a socket may have."""
    return _table(kind, is_connected)


def is_changed_by_restore(option: tuple[int, int, int]) -> bool:
    """Whether a restore sets it on its own account: then it is always recorded."""
    return option[:2] in _CHANGED_BY_RESTORE


def without_filter(options: Sequence[SocketOption]) -> Sequence[SocketOption]:
    """All but the filter and its lock: for a socket whose queue is to be filled first."""
    filters = (SO_ATTACH_FILTER, SO_LOCK_FILTER)
    return [one for one in options if one.level != socket.SOL_SOCKET or one.number not in filters]


def _read(view: socket.socket, level: int, number: int, size: int) -> bytes | None:
    try:
        return view.getsockopt(level, number, size)
    except OSError:
        return None  # of another kind of socket, or of a newer kernel


def restore_options(ctx: RestoreContext, fd: int, options: Sequence[SocketOption]) -> None:
    """Set every option in which the socket differs; one that this kernel refuses becomes a note."""
    with socket_view(fd) as view:
        for option in options:
            if _is_set(view, option):
                continue
            try:
                _write(view, option)
            except OSError as error:
                ctx.note(
                    "socket",
                    f"option {option.number} of level {option.level} cannot be set to {option.value.hex()}: "
                    f"{error.strerror or errno.errorcode.get(error.errno or 0)}",
                )


def _is_set(view: socket.socket, option: SocketOption) -> bool:
    if (option.level, option.number) == (socket.SOL_SOCKET, SO_ATTACH_FILTER):
        return syscalls.socket_filter(view.fileno()) == option.value
    return _read(view, option.level, option.number, max(len(option.value), _INT)) == option.value


def _write(view: socket.socket, option: SocketOption) -> None:
    number, value = option.number, option.value
    if (option.level, number) == (socket.SOL_SOCKET, SO_ATTACH_FILTER):
        syscalls.attach_socket_filter(view.fileno(), value)
        return
    if option.level == socket.SOL_SOCKET and number in (_SO_SNDBUF, _SO_RCVBUF):
        # socket(7): the kernel doubles what it is given; FORCE goes beyond the sysctl's limit.
        number = _SO_SNDBUFFORCE if number == _SO_SNDBUF else _SO_RCVBUFFORCE
        value = struct.pack("=i", struct.unpack("=i", value)[0] // 2)
    view.setsockopt(option.level, number, value)


def strerror(error: OSError) -> str:
    """The words of an error, for a message."""
    return error.strerror or os.strerror(error.errno or errno.EIO)
