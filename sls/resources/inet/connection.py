"""TCP connections: which end is where, what is in the queues, how both come back.

Both ends inside: each comes back by itself (`endpoint`), and they find each other as they were. The other end outside:
the same, if it is still there and as far as this generation is (`outside`); else this end comes back with its unread
bytes, then a reset.
"""

import enum
import select
import socket
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from typing import NamedTuple

from sls import sock_diag
from sls.netfilter import Addresses
from sls.network import cookie_here
from sls.resources.base import CaptureContext, OpenFile, Parting, Record
from sls.resources.inet.address import InetAddress, address_of
from sls.resources.inet.endpoint import (
    Bases,
    TcpEndpoint,
    TcpSight,
    bases_of,
    endpoint_of,
    look_at,
    tcp_sight_of,
)
from sls.resources.inet.outside import Peer, QuietPeers, addresses_of
from sls.resources.inet.packets import as_sent_by_the_peer
from sls.resources.inet.repair import has_sent_fin
from sls.resources.socket_options import inode_of
from sls.resources.socket_queue import refuse_urgent
from sls.resources.socket_sight import Sight, is_tcp, sight_of


class Fate(enum.Enum):
    """How a connection comes back."""

    JOINED = "joined"  # both ends inside
    OUTSIDE = "outside"  # the other end is outside; it may have gone when this one comes back
    WAITING = "waiting"  # the other end is in the queue of a listener inside
    CONNECTING = "connecting"  # connect(2) is under way and starts again
    RESET = "reset"  # it was reset
    REFUSED = "refused"  # connect(2) has failed; the program has not been told yet
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


class _Table(NamedTuple):
    """Every connection of the partition by its addresses, and what was seen of it, by file."""

    ends: dict[Addresses, OpenFile]
    sights: dict[int, TcpSight]
    listening_ports: set[int]


def capture_connection(ctx: CaptureContext, file: OpenFile, state: int) -> TcpConnection | None:
    """The connection of a socket that does not listen; None when there is and was none."""
    sight = sight_of(file)
    if state == sock_diag.TCP_CLOSE and not sight.events & select.POLLRDHUP:
        return None
    table = ctx.once("tcp connections", lambda: _look_at_all(ctx))
    seen = table.sights[file.file_id]
    is_at_mark = seen.is_before_mark or _is_at_mark(seen, sight.events)
    refuse_urgent(file, sight.events, is_at_mark=is_at_mark)
    remote = _remote(sight)
    end = _end(table.listening_ports, sight)
    if state == sock_diag.TCP_SYN_SENT:
        return TcpConnection(fate=Fate.CONNECTING, end=end, remote=_goal(file, sight))
    if state == sock_diag.TCP_CLOSE or remote is None:
        fate = Fate.ENDED
        if sight.events & select.POLLERR:
            fate = _failure(ctx, file, seen, is_accepted=end.is_accepted)
        return TcpConnection(fate=fate, end=end, remote=None, unread=seen.unread)
    where = sight.once("addresses", lambda: _addresses(sight, remote))
    is_inside = sight.once("sent by the peer", lambda: as_sent_by_the_peer(where)) in table.ends
    is_to_listener = not is_inside and remote.port in table.listening_ports
    if is_to_listener and end.local.port in _not_accepted(ctx, file, remote.port):
        return _waiting(file, seen, end, remote)
    if not is_inside and ctx.network:
        ctx.lose(
            file.pid,
            f"fd {file.fd}",
            f"the peer {remote.describe()} is outside of the partition, in a net namespace that will be gone; "
            "the connection comes back reset",
        )
        return TcpConnection(fate=Fate.RESET, end=end, remote=remote, unread=seen.unread)
    if not is_inside and ctx.parting is None:
        ctx.lose(
            file.pid,
            f"fd {file.fd}",
            sight.once("outside", lambda: _outside(remote)),
        )
    endpoint = endpoint_of(seen)
    return TcpConnection(
        fate=Fate.JOINED if is_inside else Fate.OUTSIDE,
        end=end,
        remote=remote,
        endpoint=endpoint,
        unread=seen.unread,
        is_shut_for_reading=bool(sight.events & select.POLLRDHUP) and not endpoint.has_received_fin,
    )


def _failure(ctx: CaptureContext, file: OpenFile, seen: TcpSight, *, is_accepted: bool) -> Fate:
    """What the pending error is of, which cannot be read without taking it away."""
    if is_accepted or not seen.never_was_connected:
        return Fate.RESET
    if not seen.segments_in:  # no answer, or one by ICMP
        ctx.lose(
            file.pid, f"fd {file.fd}", "the error of a failed connect(2) comes back as ECONNREFUSED"
        )
    return Fate.REFUSED


def _outside(remote: InetAddress) -> str:
    return (
        f"the peer {remote.describe()} is outside of the partition; "
        "the connection comes back reset if it has gone on, or ended, by then"
    )


def _goal(file: OpenFile, sight: Sight) -> InetAddress | None:
    """Where connect(2) is on its way to; getpeername(2) does not tell."""
    file.process.looks.must_be_at_rest("where a socket connects to")
    local = address_of(sight.local)
    for one in sock_diag.tcp_sockets(sight.kind.domain, local.port if local else 0):
        if one.inode == inode_of(file):
            return InetAddress(host=one.remote_host, port=one.remote_port)
    return None


def _waiting(file: OpenFile, seen: TcpSight, end: TcpEnd, remote: InetAddress) -> TcpConnection:
    has_ended = has_sent_fin(seen.state)
    if seen.acknowledged_bytes > 1 + has_ended or seen.outgoing_bytes:
        raise file.unsupported(
            f"data sent to {remote.describe()}, which has not accepted the connection yet, cannot be read; "
            "try again when it has"
        )
    return TcpConnection(fate=Fate.WAITING, end=end, remote=remote, is_shut_for_writing=has_ended)


def _not_accepted(ctx: CaptureContext, file: OpenFile, port: int) -> set[int]:
    """Remote ports of connections without a descriptor, on the port of a listener inside."""
    file.process.looks.must_be_at_rest("which connections are accepted")
    return ctx.once(
        ("tcp connections that wait", port),
        lambda: {
            one.remote_port
            for family in (socket.AF_INET, socket.AF_INET6)
            for one in sock_diag.tcp_sockets(family, port)
            if not one.inode and one.state in (sock_diag.TCP_ESTABLISHED, sock_diag.TCP_CLOSE_WAIT)
        },
    )


def _look_at_all(ctx: CaptureContext) -> _Table:
    here = cookie_here()
    files = [file for file in ctx.files.values() if is_tcp(file) and file.network == here]
    known = {file.file_id: sight_of(file) for file in files}
    addresses = (address_of(one.local) for one in known.values() if one.is_listening)
    listening = {address.port for address in addresses if address}
    ends: dict[Addresses, OpenFile] = {}
    for file in files:
        sight = known[file.file_id]
        remote = _remote(sight)
        if remote is not None:
            ends[sight.once("addresses", partial(_addresses, sight, remote))] = file
    if ctx.parting is not None and not ctx.network:
        _hold(ctx.parting, ends)
        again = files
    else:
        again = _apart(ends)
    sights = {file.file_id: tcp_sight_of(file) for file in files if file not in again}
    if again:
        sights.update(_look_again(again))
    return _Table(ends, sights, listening)


def _apart(ends: Mapping[Addresses, OpenFile]) -> list[OpenFile]:
    """Connections of which both ends are inside, if not all in one process: they have to be looked at in one go."""
    joined = [
        file
        for where, file in ends.items()
        if sight_of(file).once("sent by the peer", partial(as_sent_by_the_peer, where)) in ends
    ]
    places = {(file.process.pid, file.pid) for file in joined}
    return joined if len(places) > 1 else []


def _look_again(files: Sequence[OpenFile]) -> dict[int, TcpSight]:
    bases: Bases = {}
    for file in files:
        bases |= bases_of(file)
    found = look_at([file.descriptor for file in files], bases)
    for file in files:
        bases_of(file).update(bases)
    return {file.file_id: one for file, one in zip(files, found, strict=True)}


def _hold(parting: Parting, ends: Collection[Addresses]) -> None:
    """Before a look at the queues: what arrives afterwards would be confirmed, and lost."""
    outside = [one for one in ends if as_sent_by_the_peer(one) not in ends]
    parting.shelter(QuietPeers).hold(outside)


def _remote(sight: Sight) -> InetAddress | None:
    return address_of(sight.remote) if sight.remote else None


def _local(sight: Sight) -> InetAddress:
    none = "::" if sight.kind.domain == socket.AF_INET6 else "0.0.0.0"
    return address_of(sight.local) or InetAddress(host=none, port=0)


def _addresses(sight: Sight, remote: InetAddress) -> Addresses:
    return addresses_of(_local(sight), remote)


def _end(listening_ports: Collection[int], sight: Sight) -> TcpEnd:
    local = _local(sight)
    return TcpEnd(
        domain=sight.kind.domain,
        local=local,
        receive_buffer_bytes=sight.receive_buffer_bytes,
        is_accepted=local.port in listening_ports,
    )


def _is_at_mark(seen: TcpSight, events: int) -> bool:
    """Whether what can be read is behind an urgent byte's place: SIOCINQ counts up to there (tcp_inq, net/tcp.h)."""
    ended = select.POLLRDHUP | select.POLLHUP | select.POLLERR
    return bool(events & select.POLLIN) and not events & ended and not seen.unread_bytes
