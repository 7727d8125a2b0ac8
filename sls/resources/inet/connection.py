"""TCP connections: which end is where, what is in the queues, how both come back.

Both ends inside: each comes back by itself (`endpoint`), and they find each other as they were. The other end outside:
the same, if it is still there and as far as this generation is (`outside`); else this end comes back with its unread
bytes, then a reset.
"""

import enum
import select
import socket
import struct
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from sls import sock_diag
from sls.netfilter import Addresses
from sls.network import cookie_here, cookie_of
from sls.resources.base import CaptureContext, OpenFile, Parting, Record
from sls.resources.inet.address import (
    InetAddress,
    local_address,
    remote_address,
)
from sls.resources.inet.endpoint import TcpEndpoint, capture_endpoints
from sls.resources.inet.outside import Peer, QuietPeers, addresses_of
from sls.resources.inet.packets import as_sent_by_the_peer
from sls.resources.socket_options import inode_of, is_socket, socket_kind, socket_view
from sls.resources.socket_queue import (
    outgoing_bytes,
    peek_offset,
    readable_bytes,
    refuse_urgent,
)

_SO_PEEK_OFF: Final = 42


class Fate(enum.Enum):
    """How a connection comes back."""

    JOINED = "joined"  # both ends inside
    OUTSIDE = "outside"  # the other end is outside; it may have gone when this one comes back
    WAITING = "waiting"  # the other end is in the queue of a listener inside
    CONNECTING = "connecting"  # connect(2) is under way and starts again
    RESET = "reset"  # it was reset
    ENDED = "ended"  # both directions are closed; the descriptor is still open


class TcpEnd(Record, frozen=True):
    """What both ends must know of each other before they meet."""

    domain: int
    local: InetAddress
    receive_buffer_bytes: int
    is_accepted: bool


class TcpConnection(Record, frozen=True):
    """`unread`: received and not yet read here. `endpoint`: of one that is JOINED or OUTSIDE.

    `other_end`, `other_file`, `unsent`: of images without `endpoint`, written by earlier programs.
    """

    fate: Fate
    end: TcpEnd
    remote: InetAddress | None
    endpoint: TcpEndpoint | None = None
    other_end: TcpEnd | None = None
    other_file: int = 0
    unread: bytes = b""
    unsent: bytes = b""
    is_shut_for_reading: bool = False
    is_shut_for_writing: bool = False


def part_from(parting: Parting, connection: TcpConnection) -> None:
    """This end is about to go, or has gone, and comes back."""
    if connection.fate is Fate.OUTSIDE:
        assert connection.remote is not None
        assert connection.endpoint is not None
        where = addresses_of(connection.end.local, connection.remote)
        peer = Peer(connection.endpoint, connection.remote.scope_id)
        parting.shelter(QuietPeers).expect(where, peer)


# --- capture --------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    file: OpenFile
    remote: InetAddress


class _Table(NamedTuple):
    """Every connection of the partition by its addresses, and its endpoint by file."""

    ends: dict[Addresses, _Known]
    endpoints: dict[int, TcpEndpoint]
    listening_ports: set[int]


def capture_connection(
    ctx: CaptureContext, file: OpenFile, view: socket.socket, state: int
) -> TcpConnection | None:
    """The connection of a socket that does not listen; None when there is and was none."""
    events = _events(view)
    if state == sock_diag.TCP_CLOSE and not events & select.POLLRDHUP:
        return None
    refuse_urgent(file, events, is_at_mark=_is_at_mark(view, events))
    table = ctx.once("tcp connections", lambda: _look_at_all(ctx))
    remote = remote_address(view)
    end = _end(table.listening_ports, view)
    if state == sock_diag.TCP_SYN_SENT:
        return TcpConnection(fate=Fate.CONNECTING, end=end, remote=_goal(file, view))
    if state == sock_diag.TCP_CLOSE or remote is None:
        fate = Fate.RESET if events & select.POLLERR else Fate.ENDED
        return TcpConnection(fate=fate, end=end, remote=None, unread=_unread(view))
    is_inside = as_sent_by_the_peer(addresses_of(end.local, remote)) in table.ends
    is_to_listener = not is_inside and remote.port in table.listening_ports
    if is_to_listener and end.local.port in _not_accepted(ctx, remote.port):
        return _waiting(file, view, end, remote)
    if not is_inside and ctx.network:
        ctx.lose(
            file.pid,
            f"fd {file.fd}",
            f"the peer {remote.describe()} is outside of the partition, in a net namespace that will be gone; "
            "the connection comes back reset",
        )
        return TcpConnection(fate=Fate.RESET, end=end, remote=remote, unread=_unread(view))
    if not is_inside and ctx.parting is None:
        ctx.lose(
            file.pid,
            f"fd {file.fd}",
            f"the peer {remote.describe()} is outside of the partition; "
            "the connection comes back reset if it has gone on, or ended, by then",
        )
    endpoint = table.endpoints[file.file_id]
    return TcpConnection(
        fate=Fate.JOINED if is_inside else Fate.OUTSIDE,
        end=end,
        remote=remote,
        endpoint=endpoint,
        unread=_unread(view)[: endpoint.unread_bytes],
        is_shut_for_reading=bool(events & select.POLLRDHUP) and not endpoint.has_received_fin,
    )


def _goal(file: OpenFile, view: socket.socket) -> InetAddress | None:
    """Where connect(2) is on its way to; getpeername(2) does not tell."""
    local = local_address(view)
    for one in sock_diag.tcp_sockets(view.family, local.port if local else 0):
        if one.inode == inode_of(file):
            return InetAddress(host=one.remote_host, port=one.remote_port)
    return None


def _waiting(
    file: OpenFile, view: socket.socket, end: TcpEnd, remote: InetAddress
) -> TcpConnection:
    info = view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192)
    acknowledged = struct.unpack_from("=Q", info, 120)[0]  # tcpi_bytes_acked: the SYN counts as one
    if acknowledged > 1 or outgoing_bytes(view):
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
    here = cookie_here()
    files = [
        file for file in ctx.files.values() if is_tcp(file) and cookie_of(file.descriptor) == here
    ]
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
                ends[addresses_of(end.local, remote)] = _Known(file, remote)
    if ctx.parting is not None and not ctx.network:
        _hold(ctx.parting, ends)
    return _Table(
        ends, capture_endpoints([one.file for one in ends.values()], ctx.network), listening
    )


def _hold(parting: Parting, ends: Collection[Addresses]) -> None:
    """Before a look at the queues: what arrives afterwards would be confirmed, and lost."""
    outside = [one for one in ends if as_sent_by_the_peer(one) not in ends]
    parting.shelter(QuietPeers).hold(outside)


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


def _events(view: socket.socket) -> int:
    poller = select.poll()
    poller.register(view.fileno(), select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return dict(poller.poll(0)).get(view.fileno(), 0)


def _is_at_mark(view: socket.socket, events: int) -> bool:
    """Whether what can be read is behind an urgent byte's place: SIOCINQ counts up to there (tcp_inq, net/tcp.h)."""
    ended = select.POLLRDHUP | select.POLLHUP | select.POLLERR
    return bool(events & select.POLLIN) and not events & ended and not readable_bytes(view)


def _unread(view: socket.socket) -> bytes:
    count = readable_bytes(view)
    if not count:
        return b""  # a peek at an empty queue would take a pending error away
    peek = socket.MSG_PEEK | socket.MSG_DONTWAIT
    if view.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF) < 0:
        return view.recv(count, peek)
    with peek_offset(view, 0):
        return view.recv(count, peek)
