"""What only TCP_REPAIR shows of a connection: the bytes that were written and have not arrived (net/ipv4/tcp.c).

A socket in repair mode sends nothing, so it must not stay there if this process is killed: a child does the work on
the shared descriptors, and ends it also when it is alone. Needs CAP_NET_ADMIN.
"""

import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, NamedTuple

import msgspec

from sls.resources.socket_queue import readable_bytes
from sls.resources.stand_in import run_apart
from sls.sock_diag import TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK

_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_ON: Final = 1
_OFF_WITHOUT_PROBE: Final = -1
_RECEIVE_QUEUE, _SEND_QUEUE = 1, 2
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


class OnTheWay(NamedTuple):
    """What was written at one end and not yet received at the other, whose queue held `received_bytes` then."""

    unsent: bytes
    received_bytes: int


def bytes_on_the_way(pairs: Sequence[tuple[int, int]]) -> list[OnTheWay]:
    """For each (sender, receiver), descriptors of both ends of a connection."""
    if not pairs:
        return []
    result = os.memfd_create("sls-repair", os.MFD_CLOEXEC)
    try:
        run_apart(lambda: _write(result, [_look(*pair) for pair in pairs]))
        data = os.pread(result, os.fstat(result).st_size, 0)
        return msgspec.msgpack.decode(data, type=list[OnTheWay])
    finally:
        os.close(result)


def _write(result: int, found: list[OnTheWay]) -> None:
    data = memoryview(msgspec.msgpack.encode(found))
    while data:
        data = data[os.write(result, data) :]


def _look(sender: int, receiver: int) -> OnTheWay:
    """The sender first: the kernel may go on to deliver, so what is missing afterwards is the end of what was seen."""
    with _in_repair(sender) as view:
        written = _sequence(view, _SEND_QUEUE) - has_sent_fin(connection_state(view))
        queue = _queued_bytes(view)
    with _in_repair(receiver) as view:
        received = -1
        while received != (now := _sequence(view, _RECEIVE_QUEUE)):
            received = now
            received_bytes = readable_bytes(view)
    missing = (written - received + (1 << 31)) % (1 << 32) - (1 << 31)  # sequence numbers wrap
    return OnTheWay(queue[len(queue) - missing :] if missing > 0 else b"", received_bytes)


def connection_state(view: socket.socket) -> int:
    """The state that struct tcp_info begins with."""
    return view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def has_sent_fin(state: int) -> bool:
    """Whether this end is shut for writing; its FIN has a sequence number, but no byte."""
    return state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_CLOSING)


def _queued_bytes(view: socket.socket) -> bytes:
    try:
        return view.recv(1 << 26, _PEEK)
    except BlockingIOError:
        return b""


def _sequence(view: socket.socket, queue: int) -> int:
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
    return view.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xFFFFFFFF


@contextmanager
def _in_repair(fd: int) -> Iterator[socket.socket]:
    """Repair mode within the block. Leaving it clears SO_REUSEADDR, which is put back."""
    view = socket.socket(fileno=os.dup(fd))
    try:
        reuse = view.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
        view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _ON)
        try:
            yield view
        finally:
            view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _OFF_WITHOUT_PROBE)
            view.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)
    finally:
        view.close()
