"""Repair mode of a TCP socket (TCP_REPAIR, net/ipv4/tcp.c): its queues and sequence numbers can be read, and set.

A socket in repair mode sends nothing, so a live one must not stay there if this process is killed: a child does the
work on the shared descriptors, and ends it also when it is alone. Needs CAP_NET_ADMIN.
"""

import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sls.sock_diag import TCP_CLOSING, TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK

_TCP_REPAIR, _TCP_REPAIR_QUEUE, _TCP_QUEUE_SEQ = 19, 20, 21
_ON, _OFF, _OFF_WITHOUT_PROBE = 1, 0, -1
RECEIVE_QUEUE, SEND_QUEUE = 1, 2
_PIECE_BYTES: Final = 1 << 16
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT


def connection_state(view: socket.socket) -> int:
    """The state that struct tcp_info begins with."""
    return view.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0]


def has_sent_fin(state: int) -> bool:
    """Whether this end is shut for writing; its FIN has a sequence number, but no byte."""
    return state in (TCP_FIN_WAIT1, TCP_FIN_WAIT2, TCP_LAST_ACK, TCP_CLOSING)


def queued_bytes(view: socket.socket) -> bytes:
    """What is in the queue that `sequence_of` has asked about last; of the send queue what is not acknowledged."""
    try:
        return view.recv(1 << 26, _PEEK)
    except BlockingIOError:
        return b""


def sequence_of(view: socket.socket, queue: int) -> int:
    """The sequence number behind the last byte of a queue, a FIN counted."""
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
    return view.getsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ) & 0xFFFFFFFF


def set_sequence(view: socket.socket, queue: int, number: int) -> None:
    """Where a queue begins, before there is a connection."""
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
    view.setsockopt(socket.IPPROTO_TCP, _TCP_QUEUE_SEQ, struct.pack("=I", number))


def refill(view: socket.socket, queue: int, data: bytes) -> None:
    """Put bytes into a queue: received ones, or such as count as sent."""
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR_QUEUE, queue)
    left = memoryview(data)
    while left:
        left = left[view.send(left[:_PIECE_BYTES], socket.MSG_DONTWAIT) :]


def begin_repair(view: socket.socket) -> None:
    """From now on the socket sends nothing. A killed restorer takes it along: nobody else has it yet."""
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _ON)


def end_repair(view: socket.socket) -> None:
    """The socket works; it asks the other end for its window at once, so that both learn how far they are."""
    reuse = view.getsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR)
    view.setsockopt(socket.IPPROTO_TCP, _TCP_REPAIR, _OFF)
    view.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, reuse)


@contextmanager
def in_repair(fd: int) -> Iterator[socket.socket]:
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
