"""TCP connections: which end is where, what is in the queues, how both come back.

Both ends inside: the connection is made anew over the same addresses, and the bytes on their way are sent again;
sequence numbers are new, which no end can see. The other end outside: it saw the killed program's FIN or RST, so this
end comes back with its unread bytes, then a reset. A filter that hides the death from the peer would have to be in
place before a kill that nobody announces, and a peer that has gone on since the checkpoint could not be rejoined.
"""

import enum
import fcntl
import ipaddress
import select
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

from sls import sock_diag
from sls.resources.base import CaptureContext, OpenFile, Record
from sls.resources.inet.address import (
    InetAddress,
    local_address,
    remote_address,
)
from sls.resources.inet.repair import (
    OnTheWay,
    bytes_on_the_way,
    has_sent_fin,
)
from sls.resources.socket_options import inode_of, is_socket, socket_kind, socket_view
from sls.resources.socket_queue import peek_offset, readable_bytes

_SIOCOUTQ: Final = 0x5411
_SO_PEEK_OFF: Final = 42


class Fate(enum.Enum):
    """How a connection comes back."""

    JOINED = "joined"  # both ends inside
    WAITING = "waiting"  # the other end is in the queue of a listener inside
    CONNECTING = "connecting"  # connect(2) is under way and starts again
    RESET = "reset"  # the other end is outside, or it had sent a reset
    ENDED = "ended"  # both directions are closed; the descriptor is still open


class TcpEnd(Record, frozen=True):
    """What both ends must know of each other before they meet."""

    domain: int
    local: InetAddress
    receive_buffer_bytes: int
    is_accepted: bool


class TcpConnection(Record, frozen=True):
    """`unread`: received and not yet read here. `unsent`: written here and not yet received there."""

    fate: Fate
    end: TcpEnd
    remote: InetAddress | None
    other_end: TcpEnd | None = None
    other_file: int = 0
    unread: bytes = b""
    unsent: bytes = b""
    is_shut_for_reading: bool = False
    is_shut_for_writing: bool = False


# --- capture --------------------------------------------------------------------------------------------------------

Route = tuple[bytes, int, bytes, int]


class _Known(NamedTuple):
    file: OpenFile
    end: TcpEnd
    remote: InetAddress


class _Table(NamedTuple):
    """Every connection of the partition by its route, and what is on the way from each file that has something."""

    ends: dict[Route, _Known]
    on_the_way: dict[int, OnTheWay]
    listening_ports: set[int]


def capture_connection(
    ctx: CaptureContext, file: OpenFile, view: socket.socket, state: int
) -> TcpConnection | None:
    """The connection of a socket that does not listen; None when there is and was none."""
    events = _events(view)
    if state == sock_diag.TCP_CLOSE and not events & select.POLLRDHUP:
        return None
    table = ctx.once("tcp connections", lambda: _look_at_all(ctx))
    remote = remote_address(view)
    end = _end(table.listening_ports, view)
    if state == sock_diag.TCP_SYN_SENT:
        return TcpConnection(fate=Fate.CONNECTING, end=end, remote=_goal(file, view))
    if state == sock_diag.TCP_CLOSE or remote is None:
        fate = Fate.RESET if events & select.POLLERR else Fate.ENDED
        return TcpConnection(fate=fate, end=end, remote=None, unread=_unread(view))
    other = table.ends.get(_route(remote, end.local))
    if other is not None and other.file is not file:
        return _joined(table, file, view, state, other)
    if remote.port in table.listening_ports and end.local.port in _not_accepted(ctx, remote.port):
        return _waiting(file, view, end, remote)
    ctx.lose(
        file.pid,
        f"fd {file.fd}",
        f"the peer {remote.describe()} is outside of the partition; the connection comes back reset",
    )
    return TcpConnection(fate=Fate.RESET, end=end, remote=remote, unread=_unread(view))


def _goal(file: OpenFile, view: socket.socket) -> InetAddress | None:
    """Where connect(2) is on its way to; getpeername(2) does not tell."""
    local = local_address(view)
    for one in sock_diag.tcp_sockets(view.family, local.port if local else 0):
        if one.inode == inode_of(file):
            return InetAddress(host=one.remote_host, port=one.remote_port)
    return None


def _joined(
    table: _Table, file: OpenFile, view: socket.socket, state: int, other: _Known
) -> TcpConnection:
    outgoing = table.on_the_way.get(file.file_id)
    incoming = table.on_the_way.get(other.file.file_id)
    unread = _unread(view)
    ended = (
        sock_diag.TCP_CLOSE_WAIT,
        sock_diag.TCP_LAST_ACK,
        sock_diag.TCP_CLOSING,
    )
    return TcpConnection(
        fate=Fate.JOINED,
        end=_end(table.listening_ports, view),
        remote=remote_address(view),
        other_end=other.end,
        other_file=other.file.file_id,
        unread=unread if incoming is None else unread[: incoming.received_bytes],
        unsent=outgoing.unsent if outgoing is not None else b"",
        is_shut_for_reading=bool(_events(view) & select.POLLRDHUP) and state not in ended,
        is_shut_for_writing=has_sent_fin(state),
    )


def _waiting(
    file: OpenFile, view: socket.socket, end: TcpEnd, remote: InetAddress
) -> TcpConnection:
    info = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    acknowledged = struct.unpack_from("=Q", info, 120)[0]  # tcpi_bytes_acked: the SYN counts as one
    if acknowledged > 1 or _outgoing_bytes(view):
        raise file.unsupported(
            f"data sent to {remote.describe()}, which has not accepted the connection yet, cannot be read; "
            "try again when it has"
        )
    return TcpConnection(fate=Fate.WAITING, end=end, remote=remote)


def _not_accepted(ctx: CaptureContext, port: int) -> set[int]:
    """Remote ports of connections without a descriptor, on the port of a listener inside."""
    return ctx.once(
        ("tcp connections that wait", port),
        lambda: {
            one.remote_port
            for family in (socket.AF_INET, socket.AF_INET6)
            for one in sock_diag.tcp_sockets(family, port)
            if not one.inode and one.state == sock_diag.TCP_ESTABLISHED
        },
    )


def _look_at_all(ctx: CaptureContext) -> _Table:
    files = [file for file in ctx.files.values() if is_tcp(file)]
    listening, ends = set(), {}
    for file in files:
        with socket_view(file.descriptor) as view:
            address = local_address(view)
            if address and view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                listening.add(address.port)
    for file in files:
        with socket_view(file.descriptor) as view:
            remote = remote_address(view)
            if remote is not None:
                end = _end(listening, view)
                ends[_route(end.local, remote)] = _Known(file, end, remote)
    return _Table(ends, _on_the_way(ends), listening)


def _on_the_way(ends: dict[Route, _Known]) -> dict[int, OnTheWay]:
    pairs = []
    for (host, port, other_host, other_port), known in ends.items():
        other = ends.get((other_host, other_port, host, port))
        with socket_view(known.file.descriptor) as view:
            if other is not None and other is not known and _outgoing_bytes(view):
                pairs.append((known.file, other.file))
    found = bytes_on_the_way([(one.descriptor, other.descriptor) for one, other in pairs])
    return {one.file_id: what for (one, _), what in zip(pairs, found, strict=True)}


def is_tcp(file: OpenFile) -> bool:
    """Whether the file is a TCP socket over IPv4 or IPv6."""
    if not is_socket(file):
        return False
    kind = socket_kind(file)
    return (
        kind.domain in (socket.AF_INET, socket.AF_INET6)
        and kind.type == socket.SOCK_STREAM
        and kind.protocol == socket.IPPROTO_TCP
    )


def _end(listening_ports: Iterable[int], view: socket.socket) -> TcpEnd:
    local = local_address(view) or InetAddress(
        host="::" if view.family == socket.AF_INET6 else "0.0.0.0", port=0
    )
    return TcpEnd(
        domain=view.family,
        local=local,
        receive_buffer_bytes=view.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF),
        is_accepted=local.port in listening_ports,
    )


def _route(local: InetAddress, remote: InetAddress) -> Route:
    return _packed(local.host), local.port, _packed(remote.host), remote.port


def _packed(host: str) -> bytes:
    """The address; an IPv4 one in IPv6's clothes as IPv4."""
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed


def _events(view: socket.socket) -> int:
    poller = select.poll()
    poller.register(view.fileno(), select.POLLIN | select.POLLRDHUP)
    return dict(poller.poll(0)).get(view.fileno(), 0)


def _outgoing_bytes(view: socket.socket) -> int:
    """SIOCOUTQ, tcp(7): written and not acknowledged."""
    return int(struct.unpack("=i", fcntl.ioctl(view.fileno(), _SIOCOUTQ, bytes(4)))[0])


def _unread(view: socket.socket) -> bytes:
    count = readable_bytes(view)
    if not count:
        return b""  # a peek at an empty queue would take a pending error away
    peek = socket.MSG_PEEK | socket.MSG_DONTWAIT
    if view.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) < 0:
        return view.recv(count, peek)
    with peek_offset(view, 0):
        return view.recv(count, peek)
