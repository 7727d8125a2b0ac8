"""A table of nf_tables(8) that drops the packets of single TCP connections, both ways.

The kernel removes the table when the socket that made it is closed (NFT_TABLE_F_OWNER, Linux 5.12): however this
process ends, the machine's network is not left filtered. Knows the messages of NETLINK_NETFILTER, no policy. Needs
CAP_NET_ADMIN over the network namespace. One thread at a time.
"""

import os
import socket
import struct
from collections.abc import Iterable
from typing import Final, NamedTuple

MARK: Final = 0x51C5A7ED  # SO_MARK, socket(7): packets with it pass

_NETLINK_NETFILTER: Final = 12
_NF_TABLES: Final = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_NEW_TABLE, _NEW_CHAIN, _NEW_RULE, _NEW_SET, _NEW_ELEMENT = 0, 3, 6, 9, 12
_NLM_F_REQUEST, _NLM_F_ACK, _NLM_F_CREATE, _NLM_F_APPEND = 0x1, 0x4, 0x400, 0x800
_NLMSG_ERROR: Final = 2
_NLA_F_NESTED: Final = 0x8000
_HEADER = struct.Struct("=IHHII")
_OWNED: Final = 0x2
_INET, _IPV4, _IPV6 = 1, 2, 10  # NFPROTO_
_RAW_PRIORITY: Final = -300
_ACCEPT, _DROP = 1, 0
_VERDICT, _FIRST_REGISTER = 0, 8
_META_MARK, _META_FAMILY, _META_PROTOCOL = 3, 15, 16
_EQUAL, _NOT_EQUAL = 0, 1
_NETWORK, _TRANSPORT = 1, 2
_ELEMENTS_AT_ONCE: Final = 256


class Addresses(NamedTuple):
    """Of a TCP connection; hosts packed, 4 or 16 bytes."""

    local_host: bytes
    local_port: int
    remote_host: bytes
    remote_port: int


class _Family(NamedTuple):
    """Where the addresses are in the header: source and target, one after the other."""

    number: int
    offset: int
    bytes_of_both: int


_FAMILIES: Final = (_Family(_IPV4, 12, 8), _Family(_IPV6, 8, 32))
_HOOKS: Final = {"in": 1, "out": 3}  # NF_INET_LOCAL_IN, NF_INET_LOCAL_OUT


class QuietTable:
    """Drops what arrives from, and leaves for, the other ends of the connections that it is told of."""

    def __init__(self) -> None:
        """OSError: EOPNOTSUPP or EPROTONOSUPPORT without nf_tables in the kernel, EPERM without the right."""
        self._known: set[Addresses] = set()
        self._serial = 0
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER
        )
        try:
            self._socket.bind((0, 0))
            self._name = f"sls-quiet-{self._socket.getsockname()[0]}"
            self._change(self._table())
        except BaseException:
            self._socket.close()
            raise

    def add(self, connections: Iterable[Addresses]) -> None:
        """Make these quiet as well."""
        new = [one for one in dict.fromkeys(connections) if one not in self._known]
        for start in range(0, len(new), _ELEMENTS_AT_ONCE):
            some = new[start : start + _ELEMENTS_AT_ONCE]
            self._change([one for found in some for one in self._elements(found)])
        self._known.update(new)

    def close(self) -> None:
        """Everything passes again."""
        self._socket.close()

    def _table(self) -> list[tuple[int, bytes]]:
        parts = [(_NEW_TABLE, _text(1, self._name) + _number(2, _OWNED))]
        identifier = 0
        for way, hook in _HOOKS.items():
            place = _nested(4, _number(1, hook), _attribute(2, struct.pack(">i", _RAW_PRIORITY)))
            chain = _text(1, self._name) + _text(3, way) + place
            parts.append((_NEW_CHAIN, chain + _number(5, _ACCEPT) + _text(7, "filter")))
            for family in _FAMILIES:
                identifier += 1
                parts.append((_NEW_SET, self._set(way, family, identifier)))
                parts.append((_NEW_RULE, self._rule(way, family)))
        return parts

    def _set(self, way: str, family: _Family, identifier: int) -> bytes:
        return b"".join(
            (
                _text(1, self._name), _text(2, f"{way}{family.number}"), _number(3, 0), _number(4, 0),
                _number(5, family.bytes_of_both + 4), _number(10, identifier),
            )
        )  # fmt: skip

    def _rule(self, way: str, family: _Family) -> bytes:
        """Without the mark, of the family, TCP, source and target with their ports in the set: drop."""
        ports = _FIRST_REGISTER + family.bytes_of_both // 4
        steps = (
            *_compare_meta(_META_MARK, _NOT_EQUAL, struct.pack("=I", MARK)),
            *_compare_meta(_META_FAMILY, _EQUAL, bytes([family.number])),
            *_compare_meta(_META_PROTOCOL, _EQUAL, bytes([socket.IPPROTO_TCP])),
            _load(_FIRST_REGISTER, _NETWORK, family.offset, family.bytes_of_both),
            _load(ports, _TRANSPORT, 0, 4),
            _expression("lookup", _text(1, f"{way}{family.number}"), _number(2, _FIRST_REGISTER)),
            _expression(
                "immediate", _number(1, _VERDICT), _nested(2, _nested(2, _number(1, _DROP)))
            ),
        )
        return _text(1, self._name) + _text(2, way) + _nested(4, *steps)

    def _elements(self, one: Addresses) -> list[tuple[int, bytes]]:
        family = _IPV4 if len(one.local_host) == 4 else _IPV6
        keys = {
            "out": one.local_host
            + one.remote_host
            + struct.pack(">HH", one.local_port, one.remote_port),
            "in": one.remote_host
            + one.local_host
            + struct.pack(">HH", one.remote_port, one.local_port),
        }
        return [
            (
                _NEW_ELEMENT,
                _text(1, self._name)
                + _text(2, f"{way}{family}")
                + _nested(3, _nested(1, _nested(1, _attribute(1, key)))),
            )
            for way, key in keys.items()
        ]

    # --- messages ---

    def _change(self, parts: list[tuple[int, bytes]]) -> None:
        """All of it or nothing (a batch is one transaction); OSError with the first errno."""
        flags = _NLM_F_REQUEST | _NLM_F_ACK | _NLM_F_CREATE | _NLM_F_APPEND
        kind = _NF_TABLES << 8
        messages = [self._message(kind | number, flags, _INET, body) for number, body in parts]
        first = self._message(_BATCH_BEGIN, _NLM_F_REQUEST, 0, b"", _NF_TABLES)
        last = self._message(_BATCH_END, _NLM_F_REQUEST, 0, b"", _NF_TABLES)
        self._socket.send(first + b"".join(messages) + last)
        waiting = {_HEADER.unpack_from(one)[3] for one in messages}
        failure = 0
        while waiting and not failure:
            for number, code in _answers(self._socket.recv(1 << 16)):
                waiting.discard(number)
                failure = failure or code
        if failure:
            raise OSError(failure, os.strerror(failure), "nf_tables")

    def _message(self, kind: int, flags: int, family: int, body: bytes, resource: int = 0) -> bytes:
        self._serial += 1
        data = struct.pack(">BBH", family, 0, resource) + body
        return _HEADER.pack(_HEADER.size + len(data), kind, flags, self._serial, 0) + data


def _answers(data: bytes) -> list[tuple[int, int]]:
    """(serial, errno) of each acknowledgement."""
    found = []
    position = 0
    while position + _HEADER.size <= len(data):
        length, kind, _, serial, _ = _HEADER.unpack_from(data, position)
        if kind == _NLMSG_ERROR:
            found.append((serial, -int(struct.unpack_from("=i", data, position + _HEADER.size)[0])))
        position += (length + 3) & ~3
    return found


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(-length % 4)


def _nested(kind: int, *parts: bytes) -> bytes:
    return _attribute(kind | _NLA_F_NESTED, b"".join(parts))


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, struct.pack(">I", value))


def _expression(name: str, *parts: bytes) -> bytes:
    return _nested(1, _text(1, name), _nested(2, *parts))


def _compare_meta(key: int, how: int, value: bytes) -> tuple[bytes, bytes]:
    return (
        _expression("meta", _number(2, key), _number(1, _FIRST_REGISTER)),
        _expression(
            "cmp", _number(1, _FIRST_REGISTER), _number(2, how), _nested(3, _attribute(1, value))
        ),
    )


def _load(register: int, base: int, offset: int, length: int) -> bytes:
    return _expression(
        "payload", _number(1, register), _number(2, base), _number(3, offset), _number(4, length)
    )
