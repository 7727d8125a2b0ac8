"""What only NETLINK_SOCK_DIAG tells (sock_diag(7)): peers, pending connections, queue lengths; and SOCK_DESTROY.

Answers are of this process's network namespace. Knows the messages, no policy. Each function opens its own netlink
socket, so calls from several threads do not meet.
"""

import errno
import os
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_NETLINK_SOCK_DIAG: Final = 4
_SOCK_DIAG_BY_FAMILY, _SOCK_DESTROY = 20, 21
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_DUMP = 0x1, 0x4, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_HEADER = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")
_ALL_STATES: Final = 0xFFFFFFFF
_NO_COOKIE: Final = 0xFFFFFFFF

FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)

TCP_ESTABLISHED: Final = 1
TCP_SYN_SENT: Final = 2
TCP_SYN_RECV: Final = 3
TCP_FIN_WAIT1: Final = 4
TCP_FIN_WAIT2: Final = 5
TCP_CLOSE: Final = 7
TCP_CLOSE_WAIT: Final = 8
TCP_LAST_ACK: Final = 9
TCP_LISTEN: Final = 10
TCP_CLOSING: Final = 11


class UnixState(NamedTuple):
    """One unix socket. `peer`: its inode, 0 when it is closed or not accepted yet, None when there is none.

    `name` as in sockaddr_un(7): abstract ones begin with NUL. `pending`: inodes of the clients that wait to be
    accepted. Queue lengths of a listener are (waiting, backlog), else bytes to be read, bytes not yet read by the peer.
    """

    inode: int
    kind: int
    state: int
    name: bytes
    node: tuple[int, int] | None
    peer: int | None
    pending: tuple[int, ...]
    receive_queue: int
    send_queue: int
    shutdown: int


class InetState(NamedTuple):
    """One TCP socket. `inode` is 0 for one that no descriptor refers to. `identity` names it for `destroy`."""

    family: int
    state: int
    local_port: int
    remote_port: int
    receive_queue: int
    send_queue: int
    inode: int
    identity: bytes

    @property
    def local_host(self) -> str:
        """This end's address."""
        return self._host(4)

    @property
    def remote_host(self) -> str:
        """The other end's address."""
        return self._host(20)

    def _host(self, offset: int) -> str:
        length = 4 if self.family == socket.AF_INET else 16
        return socket.inet_ntop(self.family, self.identity[offset : offset + length])


def unix_socket(inode: int) -> UnixState:
    """The unix socket of that inode number. FileNotFoundError when there is none."""
    show = 0x1 | 0x2 | 0x4 | 0x8 | 0x10  # name, vfs, peer, icons, rqlen
    request = struct.pack(
        "=BBHIIIII", socket.AF_UNIX, 0, 0, _ALL_STATES, inode, show, _NO_COOKIE, _NO_COOKIE
    )
    for payload in _ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST, request):
        return _parse_unix(payload)
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"socket:[{inode}]")


class PacketMembership(NamedTuple):
    """struct packet_diag_mclist: `device` by its index, `kind` a PACKET_MR_ constant."""

    device: int
    times: int
    kind: int
    address: bytes


class PacketState(NamedTuple):
    """One packet(7) socket."""

    memberships: tuple[PacketMembership, ...]
    has_ring: bool


_PACKET_MESSAGE = struct.Struct("=BBHIII")
_PACKET_MEMBERSHIPS, _PACKET_RX_RING, _PACKET_TX_RING = 1, 2, 3
_PACKET_SHOW: Final = 0x2 | 0x4  # memberships, rings
_MEMBERSHIP = struct.Struct("=IIHH32s")


def packet_socket(inode: int) -> PacketState:
    """The packet socket of that inode number. OSError: ENOENT when there is none, or the kernel does not tell."""
    request = struct.pack(
        "=BBHIIII", socket.AF_PACKET, 0, 0, inode, _PACKET_SHOW, _NO_COOKIE, _NO_COOKIE
    )
    for payload in list(_ask(_SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST | _NLM_F_DUMP, request)):
        if _PACKET_MESSAGE.unpack_from(payload)[3] == inode:
            found = _attributes(payload[_PACKET_MESSAGE.size :])
            members = _MEMBERSHIP.iter_unpack(found.get(_PACKET_MEMBERSHIPS, b""))
            return PacketState(
                tuple(
                    PacketMembership(device, times, kind, address[:length])
                    for device, times, kind, length, address in members
                ),
                _PACKET_RX_RING in found or _PACKET_TX_RING in found,
            )
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), f"socket:[{inode}]")


def tcp_sockets(family: int, local_port: int) -> list[InetState]:
    """Every TCP socket of `family` on a local port, in any state, those in TIME_WAIT included."""
    identity = struct.pack(">HH", local_port, 0) + bytes(36) + b"\xff" * 8
    request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, 0, 0, _ALL_STATES) + identity
    flags = _NLM_F_REQUEST | _NLM_F_DUMP
    return [_parse_inet(payload) for payload in _ask(_SOCK_DIAG_BY_FAMILY, flags, request)]


class TcpKey(NamedTuple):
    """struct tcp_diag_md5sig: what segments from and to an address are signed with."""

    host: str
    prefix_bits: int
    key: bytes


_KEY = struct.Struct("=BBH16s80s")
_TCP_KEYS: Final = 18  # INET_DIAG_MD5SIG
_WITH_INFO: Final = 1 << 1  # INET_DIAG_INFO: what is more than addresses
_KEYED_STATES: Final = _ALL_STATES & ~(1 << 3 | 1 << 6 | 1 << 12)  # all but halves of sockets


def tcp_keys() -> dict[int, list[TcpKey]]:
    """Keys of TCP_MD5SIG (tcp(7)) by inode, of sockets that listen or are connected and have some (Linux 4.14)."""
    found = {}
    identity = bytes(40) + b"\xff" * 8
    for family in FAMILIES:
        request = struct.pack("=BBBBI", family, socket.IPPROTO_TCP, _WITH_INFO, 0, _KEYED_STATES)
        flags = _NLM_F_REQUEST | _NLM_F_DUMP
        for payload in _ask(_SOCK_DIAG_BY_FAMILY, flags, request + identity):
            keys = _attributes(payload[_INET_MESSAGE.size :]).get(_TCP_KEYS)
            if keys:
                found[_parse_inet(payload).inode] = [_key(one) for one in _KEY.iter_unpack(keys)]
    return found


def _key(fields: tuple[int, int, int, bytes, bytes]) -> TcpKey:
    family, prefix_bits, length, address, key = fields
    size = 4 if family == socket.AF_INET else 16
    return TcpKey(socket.inet_ntop(family, address[:size]), prefix_bits, key[:length])


def destroy(found: InetState) -> None:
    """SOCK_DESTROY: abort a connection at once, as by a reset. OSError EOPNOTSUPP: the kernel was built without it."""
    request = struct.pack("=BBBBI", found.family, socket.IPPROTO_TCP, 0, 0, 1 << found.state)
    try:
        for _ in _ask(_SOCK_DESTROY, _NLM_F_REQUEST | _NLM_F_ACK, request + found.identity):
            pass
    except FileNotFoundError:
        return  # it ended by itself


def _ask(kind: int, flags: int, request: bytes) -> Iterator[bytes]:
    """Payloads of the answers; OSError with the kernel's errno."""
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
    ) as netlink:
        netlink.send(_HEADER.pack(_HEADER.size + len(request), kind, flags, 1, 0) + request)
        is_dump = flags & _NLM_F_DUMP == _NLM_F_DUMP
        while True:
            for found, payload in _messages(netlink.recv(1 << 18)):
                if found == _NLMSG_DONE:
                    return
                if found == _NLMSG_ERROR:
                    code = -int(struct.unpack_from("=i", payload)[0])
                    if code:
                        raise OSError(code, os.strerror(code), "sock_diag")
                    return
                yield payload
            if not is_dump and not flags & _NLM_F_ACK:
                return


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, position)
        yield kind, data[position + _HEADER.size : position + length]
        position += length + 3 & ~3


def _attributes(data: bytes) -> dict[int, bytes]:
    found = {}
    position = 0
    while position + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, position)
        found[kind] = data[position + _ATTRIBUTE.size : position + length]
        position += length + 3 & ~3
    return found


_UNIX_MESSAGE = struct.Struct("=BBBBIII")
_UNIX_NAME, _UNIX_VFS, _UNIX_PEER, _UNIX_ICONS, _UNIX_RQLEN, _, _UNIX_SHUTDOWN = range(7)


def _parse_unix(payload: bytes) -> UnixState:
    _, kind, state, _, inode, _, _ = _UNIX_MESSAGE.unpack_from(payload)
    attributes = _attributes(payload[_UNIX_MESSAGE.size :])
    lengths = struct.unpack("=II", attributes.get(_UNIX_RQLEN, bytes(8)))
    node = attributes.get(_UNIX_VFS)
    peer = attributes.get(_UNIX_PEER)
    icons = attributes.get(_UNIX_ICONS, b"")
    return UnixState(
        inode=inode,
        kind=kind,
        state=state,
        name=_name(attributes.get(_UNIX_NAME, b"")),
        node=struct.unpack("=II", node) if node else None,
        peer=struct.unpack("=I", peer)[0] if peer else None,
        pending=struct.unpack(f"={len(icons) // 4}I", icons),
        receive_queue=lengths[0],
        send_queue=lengths[1],
        shutdown=attributes.get(_UNIX_SHUTDOWN, b"\0")[0],
    )


def _name(raw: bytes) -> bytes:
    """Paths come with a terminating NUL; NULs of an abstract name are part of it."""
    return raw if raw.startswith(b"\0") else raw.rstrip(b"\0")


_INET_MESSAGE = struct.Struct("=BBBB48sIIIII")


def _parse_inet(payload: bytes) -> InetState:
    family, state, _, _, identity, _, receive, send, _, inode = _INET_MESSAGE.unpack_from(payload)
    local, remote = struct.unpack_from(">HH", identity)
    return InetState(family, state, local, remote, receive, send, inode, identity)
