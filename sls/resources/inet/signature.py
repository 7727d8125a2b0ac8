"""Keys of signed TCP segments (TCP_MD5SIG of tcp(7), RFC 2385): set by setsockopt(2), told by sock_diag alone.

Not a resource of its own: part of the record of TCP sockets. A socket that neither listens nor is connected is not
asked: the kernel shows no keys of it. One table of a network's keys serves all its sockets; it is hardly ever not
empty, and so is looked at as often as it takes no more than its share of the time.
"""

import socket
import struct
from collections.abc import Sequence
from functools import partial
from typing import Final

from sls import sock_diag
from sls.pace import Pace
from sls.resources.base import CaptureContext, Memo, OpenFile, Record
from sls.resources.socket_options import inode_of

_TCP_MD5SIG_EXT: Final = 32
_HAS_PREFIX: Final = 1  # TCP_MD5SIG_FLAG_PREFIX
_SIGNATURE = struct.Struct("=128sBBHi80s")  # struct tcp_md5sig
_Keys = dict[int, list[sock_diag.TcpKey]]


class SigningKey(Record, frozen=True):
    """What segments from and to an address are signed with; `prefix_bits` of `host` count."""

    host: str
    prefix_bits: int
    key: bytes


def capture_keys(ctx: CaptureContext, file: OpenFile) -> tuple[SigningKey, ...]:
    """Those of a socket that listens or is connected."""
    found = ctx.once("tcp keys", lambda: _of_network(ctx, file))
    return tuple(
        SigningKey(host=one.host, prefix_bits=one.prefix_bits, key=one.key)
        for one in found.get(inode_of(file), ())
    )


def _of_network(ctx: CaptureContext, file: OpenFile) -> _Keys:
    """Of all sockets of the network that we are in; of ours it is looked at before the stop."""
    look = partial(_table, file.process.memo, ctx.network)
    return look() if ctx.network else file.process.looks.at_leisure("tcp keys", look)


def _table(memo: Memo, network: bytes) -> _Keys:
    pace = memo.of("pace of tcp keys", network, Pace)
    if pace.is_due():
        with pace.looking():
            memo.put("tcp keys", network, sock_diag.tcp_keys())
    found: _Keys = memo.of("tcp keys", network, dict)
    return found


def restore_keys(view: socket.socket, keys: Sequence[SigningKey]) -> None:
    """Before the socket is connected or listens. OSError: ENOPROTOOPT where the kernel has none (CONFIG_TCP_MD5SIG)."""
    for one in keys:
        address = _address(view.family, one.host)
        fields = (_HAS_PREFIX, one.prefix_bits, len(one.key), 0, one.key)
        view.setsockopt(socket.IPPROTO_TCP, _TCP_MD5SIG_EXT, _SIGNATURE.pack(address, *fields))


def _address(family: int, host: str) -> bytes:
    """A struct sockaddr_storage. One of IPv4 is mapped for a socket of IPv6."""
    if family == socket.AF_INET:
        return struct.pack("=HH4s", family, 0, socket.inet_aton(host))
    mapped = host if ":" in host else f"::ffff:{host}"
    return struct.pack("=HHI16s", family, 0, 0, socket.inet_pton(family, mapped))
