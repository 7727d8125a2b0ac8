"""TCP connections whose other end is outside: kept quiet while the program is gone, asked before they are joined again.

While a program is away, a filter drops what its connections send and get: neither the FIN or RST of its end reaches the
other side, nor does this machine's kernel answer for a socket that it no longer has. At the restore the other end is
asked how far it has come. If that is where the image stands, the connection goes on; else it comes back reset.
"""

import errno
import ipaddress
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from typing import NamedTuple

from sls import sock_diag
from sls.netfilter import Addresses, QuietTable
from sls.resources.base import Record, RestoreContext
from sls.resources.inet import packets
from sls.resources.inet.address import InetAddress
from sls.resources.inet.endpoint import WRAP, TcpEndpoint
from sls.resources.inet.orphans import end_orphans
from sls.resources.inet.packets import Answer, Segment
from sls.resources.socket_options import strerror


class Peer(NamedTuple):
    """What is known of the other end, and how it is asked."""

    endpoint: TcpEndpoint
    scope: int


class Verdict(Record, frozen=True):
    """Whether a connection goes on; `reason`: why not. `confirmed_bytes` of what was written have arrived."""

    reason: str = ""
    confirmed_bytes: int = 0


class QuietPeers:
    """The shelter of connections to the outside. `lack`: why there is none."""

    def __init__(self) -> None:
        self.lack = ""
        self.peers: dict[Addresses, Peer] = {}
        self._held: set[Addresses] = set()
        self._table: QuietTable | None = None

    def hold(self, connections: Collection[Addresses]) -> None:
        """From now on nothing passes."""
        self._held.update(connections)
        try:
            if self._table is None and connections:
                self._table = QuietTable()
            if self._table is not None:
                self._table.add(connections)
        except OSError as error:
            self.lack = f"the network cannot be filtered here (nf_tables: {strerror(error)})"

    def expect(self, connection: Addresses, peer: Peer) -> None:
        """The connection is to be joined again."""
        self.peers[connection] = peer

    def begin(self) -> None:
        self.hold(self.peers)

    def seal(self) -> None:
        """What the ended processes leave in the kernel would speak again when nothing is held up any more."""
        remote_ports: dict[int, set[int]] = {}
        for connection in self._held:
            remote_ports.setdefault(connection.local_port, set()).add(connection.remote_port)
        for port, others in remote_ports.items():
            end_orphans(port, others)

    def close(self) -> None:
        if self._table is not None:
            self._table.close()
            self._table = None


def addresses_of(local: InetAddress, remote: InetAddress) -> Addresses:
    """As they are in packets: an IPv4 address in IPv6's clothes as IPv4."""
    return Addresses(_packed(local.host), local.port, _packed(remote.host), remote.port)


@lru_cache(maxsize=4096)
def _packed(host: str) -> bytes:
    address = ipaddress.ip_address(host)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.packed
    return address.packed


def verdict_on(ctx: RestoreContext, connection: Addresses) -> Verdict:
    """Whether the other end still is where the image stands. All are asked at once, when the first one is needed."""
    found = ctx.once("tcp peers", lambda: _judge_all(ctx))
    return found[connection]


def _judge_all(ctx: RestoreContext) -> Mapping[Addresses, Verdict]:
    shelter = ctx.parting.shelter(QuietPeers)
    if shelter.lack:
        return dict.fromkeys(shelter.peers, Verdict(reason=shelter.lack))
    shelter.seal()
    answers = packets.ask({one: (one, _question(peer)) for one, peer in shelter.peers.items()})
    used = _used({one.local_port for one in shelter.peers})
    found = {}
    for connection, peer in shelter.peers.items():
        answer = answers.get(connection)
        if connection in used:
            verdict = Verdict(reason="another program has a connection with these addresses")
        else:
            verdict = judge(peer.endpoint, answer, is_last_word=ctx.is_last_word)
        if verdict.reason and answer is not None and not answer.is_reset:
            ctx.at_last(partial(_reset, connection, answer, peer.scope))
        found[connection] = verdict
    return found


def _question(peer: Peer) -> Segment:
    """As a keep-alive probe: one byte that was confirmed long ago, which is answered whatever has happened."""
    endpoint = peer.endpoint
    return Segment(
        sequence=(endpoint.unacknowledged - 1) % WRAP,
        acknowledged=endpoint.next_awaited,
        flags=packets.ACK,
        data=b"\0",
        timestamp=endpoint.timestamp if endpoint.has_timestamps else None,
        scope=peer.scope,
    )


def judge(endpoint: TcpEndpoint, answer: Answer | None, *, is_last_word: bool) -> Verdict:
    """What the other end's word means.

    `is_last_word`: nothing has come or gone since the image. Then it may have sent what was dropped, and sends it
    again. Else what it has sent may have been confirmed to it, and be lost.
    """
    if answer is None:
        return Verdict() if is_last_word else Verdict(reason="the peer does not answer")
    if answer.is_reset:
        return Verdict(reason="the peer has ended the connection")
    confirmed = (answer.acknowledged - endpoint.unacknowledged) % WRAP
    if confirmed > len(endpoint.written) + endpoint.has_sent_fin:
        return Verdict(reason="the peer has received what this generation has not sent yet")
    news = (answer.sequence - endpoint.next_awaited) % WRAP
    if news and not (is_last_word and news < WRAP >> 1):
        return Verdict(reason="the peer has sent what this generation has not received yet")
    return Verdict(confirmed_bytes=min(confirmed, len(endpoint.written)))


def _used(ports: Iterable[int]) -> set[Addresses]:
    """Connections that somebody has on these local ports."""
    return {
        Addresses(_packed(one.local_host), port, _packed(one.remote_host), one.remote_port)
        for port in ports
        for family in sock_diag.FAMILIES
        for one in sock_diag.tcp_sockets(family, port)
        if one.inode
    }


def _reset(connection: Addresses, answer: Answer, scope: int) -> None:
    """Tell the other end that this one is gone; it may wait for it else."""
    segment = Segment(answer.acknowledged, 0, packets.RST, scope=scope)
    try:
        packets.send(connection, segment)
    except OSError as error:
        if error.errno not in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL):
            raise
