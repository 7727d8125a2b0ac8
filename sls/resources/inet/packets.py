"""Single TCP segments, written and seen by hand: asking the other end of a connection how far it has come.

Segments go out by raw(7) with the mark that `sls.netfilter` lets pass; answers are seen by packet(7), before any filter
drops them. Needs CAP_NET_RAW and CAP_NET_ADMIN.
"""

import select
import socket
import struct
import time
from collections.abc import Hashable, Mapping
from typing import Final, NamedTuple, TypeVar

from sls import syscalls
from sls.netfilter import MARK, Addresses

FIN, SYN, RST, ACK = 0x01, 0x02, 0x04, 0x10
_HOPS: Final = 64
_WINDOW: Final = 0xFFFF
_TIMESTAMPS: Final = 8  # the option's kind, RFC 7323
_SO_MARK: Final = 36
_ETH_P_IP, _ETH_P_IPV6 = 0x0800, 0x86DD
_ASK_AGAIN_S: Final = 0.3
_ASK_TIMES: Final = 3
_QUEUE_BYTES: Final = 1 << 22
_SO_RCVBUFFORCE: Final = 33

_LOAD_BYTE, _LOAD_HALF, _IF_EQUAL, _IF_GREATER, _RETURN = 0x30, 0x28, 0x15, 0x25, 0x06


class Segment(NamedTuple):
    """What a segment says. `timestamp`: its own in the option; None: without. `scope`: of a link-local address."""

    sequence: int
    acknowledged: int
    flags: int
    data: bytes = b""
    timestamp: int | None = None
    scope: int = 0


class Answer(NamedTuple):
    """What the other end said: what it sends next and what it awaits next, or that there is no such connection."""

    sequence: int
    acknowledged: int
    is_reset: bool


Key = TypeVar("Key", bound=Hashable)


def send(connection: Addresses, segment: Segment) -> None:
    """Send to the remote end, from the local one, whoever has these addresses."""
    source, target = connection.local_host, connection.remote_host
    body = _body(connection, segment)
    checksum = _checksum(source + target + struct.pack(">II", len(body), socket.IPPROTO_TCP) + body)
    body = body[:16] + checksum + body[18:]
    if len(source) == 4:
        head = struct.pack(
            ">BBHHHBBH4s4s", 0x45, 0, 20 + len(body), 0, 0, _HOPS, socket.IPPROTO_TCP, 0, source, target
        )  # fmt: skip
        _send_raw(socket.AF_INET, head + body, (socket.inet_ntop(socket.AF_INET, target), 0))
    else:
        head = struct.pack(
            ">IHBB16s16s", 0x60000000, len(body), socket.IPPROTO_TCP, _HOPS, source, target
        )
        where = (socket.inet_ntop(socket.AF_INET6, target), 0, 0, segment.scope)
        _send_raw(socket.AF_INET6, head + body, where)


def as_sent_by_the_peer(connection: Addresses) -> Addresses:
    """The same connection from its other end."""
    return Addresses(*connection[2:], *connection[:2])


def ask(questions: Mapping[Key, tuple[Addresses, Segment]]) -> dict[Key, Answer]:
    """Send each segment, again where nothing comes back; what came back in time."""
    waiting = {connection: key for key, (connection, _) in questions.items()}
    found: dict[Key, Answer] = {}
    with _Listening() as listening:
        for _ in range(_ASK_TIMES):
            for key in set(waiting.values()):
                _try_to_send(*questions[key])
            until = time.monotonic() + _ASK_AGAIN_S
            while waiting and (remaining := until - time.monotonic()) > 0:
                for connection, answer in listening.wait(remaining):
                    if connection in waiting:
                        found[waiting.pop(connection)] = answer
    return found


def _try_to_send(connection: Addresses, segment: Segment) -> None:
    try:
        send(connection, segment)
    except OSError:
        return  # no route: as if it were lost


def _body(connection: Addresses, segment: Segment) -> bytes:
    options = b""
    if segment.timestamp is not None:
        options = struct.pack(">BBBBII", 1, 1, _TIMESTAMPS, 10, segment.timestamp, 0)
    words = (20 + len(options)) // 4
    return (
        struct.pack(
            ">HHIIBBHHH",
            connection.local_port, connection.remote_port, segment.sequence, segment.acknowledged,
            words << 4, segment.flags, _WINDOW, 0, 0,
        )
        + options + segment.data
    )  # fmt: skip


def _checksum(data: bytes) -> bytes:
    """RFC 1071. The pseudo header's fields add up to the same for both versions of IP."""
    padded = data + b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f">{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return struct.pack(">H", ~total & 0xFFFF)


def _send_raw(
    family: int, packet: bytes, where: tuple[str, int] | tuple[str, int, int, int]
) -> None:
    with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.setsockopt(socket.SOL_SOCKET, _SO_MARK, MARK)
        raw.sendto(packet, where)


class _Listening:
    """Short TCP segments that arrive at this machine, for a `with` block."""

    def __init__(self) -> None:
        self._sockets = {
            _opened(_ETH_P_IP, 9, 2, 100): _parse_ipv4,
            _opened(_ETH_P_IPV6, 6, 4, 80): _parse_ipv6,
        }

    def __enter__(self) -> "_Listening":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()

    def wait(self, seconds: float) -> list[tuple[Addresses, Answer]]:
        """What arrived, named as the connection is here; at most one from each socket."""
        readable, _, _ = select.select(list(self._sockets), [], [], seconds)
        found = (self._sockets[one](one.recv(256)) for one in readable)
        return [one for one in found if one is not None]


def _opened(protocol: int, kind_at: int, length_at: int, longest: int) -> socket.socket:
    """A packet(7) socket that hands over TCP of at most `longest` bytes; bulk data would fill its queue."""
    kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK
    one = socket.socket(socket.AF_PACKET, kind, socket.htons(protocol))
    try:
        steps = (
            (_LOAD_BYTE, 0, 0, kind_at), (_IF_EQUAL, 0, 3, socket.IPPROTO_TCP),
            (_LOAD_HALF, 0, 0, length_at), (_IF_GREATER, 1, 0, longest),
            (_RETURN, 0, 0, 0xFFFF), (_RETURN, 0, 0, 0),
        )  # fmt: skip
        syscalls.attach_socket_filter(
            one.fileno(), b"".join(struct.pack("=HBBI", *step) for step in steps)
        )
        one.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _QUEUE_BYTES)
    except BaseException:
        one.close()
        raise
    return one


def _parse_ipv4(packet: bytes) -> tuple[Addresses, Answer] | None:
    (length,) = struct.unpack_from(">H", packet, 2)
    return _parse_tcp(packet[16:20], packet[12:16], packet[(packet[0] & 0xF) * 4 : length])


def _parse_ipv6(packet: bytes) -> tuple[Addresses, Answer] | None:
    (length,) = struct.unpack_from(">H", packet, 4)
    return _parse_tcp(packet[24:40], packet[8:24], packet[40 : 40 + length])


def _parse_tcp(here: bytes, there: bytes, body: bytes) -> tuple[Addresses, Answer] | None:
    """A bare acknowledgement or a reset. What is sent again, data or an end, says where it begins, not what is next."""
    if len(body) < 20:
        return None  # or what came before the filter was there
    remote_port, local_port, sequence, acknowledged, words, flags = struct.unpack_from(
        ">HHIIBB", body
    )
    is_bare = len(body) == (words >> 4) * 4 and flags & ACK and not flags & (FIN | SYN)
    if not (is_bare or flags & RST):
        return None
    connection = Addresses(here, local_port, there, remote_port)
    return connection, Answer(sequence, acknowledged, bool(flags & RST))
