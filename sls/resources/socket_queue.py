"""What waits in a socket's receive queue, read with MSG_PEEK: nothing is taken out (recv(2), socket(7) SO_PEEK_OFF).

Not a resource of its own: part of the records of unix and UDP sockets. One kernel fact limits it: an empty message that
was peeked once is skipped by later peeks behind the first place (net/core/datagram.c, `skb->peeked`).
"""

import fcntl
import select
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sls.resources.base import CaptureContext, OpenFile

_SO_PEEK_OFF: Final = 42
_SIOCINQ: Final = 0x541B
_MESSAGE_BYTES: Final = 1 << 22
_ANCILLARY_BYTES: Final = 1 << 13
_PEEK: Final = socket.MSG_PEEK | socket.MSG_DONTWAIT | socket.MSG_CMSG_CLOEXEC


class PeekedMessage(NamedTuple):
    """One message as recvmsg(2) gives it."""

    data: bytes
    ancillary: list[tuple[int, int, bytes]]
    address: Any


def readable_bytes(view: socket.socket) -> int:
    """SIOCINQ: bytes of a stream, or of the first message."""
    return int(struct.unpack("=i", fcntl.ioctl(view.fileno(), _SIOCINQ, bytes(4)))[0])


def is_peekable(ctx: CaptureContext, file: OpenFile, view: socket.socket) -> bool:
    """Whether to look at all: a recvmsg(2) would take a pending error away, so such a queue must be empty."""
    poller = select.poll()
    poller.register(view.fileno(), select.POLLIN)
    events = dict(poller.poll(0)).get(view.fileno(), 0)
    if not events & select.POLLERR:
        return bool(events & select.POLLIN)
    if readable_bytes(view):
        raise file.unsupported(
            "a socket with a pending error and unread data; let the program read them"
        )
    ctx.lose(file.pid, f"fd {file.fd}", "the socket's pending error is gone after a restore")
    return False


def peek_messages(view: socket.socket) -> Iterator[PeekedMessage]:
    """Every message of a queue that keeps boundaries, in order."""
    first = _peek(view)
    if first is None:
        return
    yield first
    with peek_offset(view, len(first.data)):
        while (message := _peek(view)) is not None:
            yield message


def peek_stream(view: socket.socket) -> Iterator[PeekedMessage]:
    """A byte stream in pieces: they end where descriptors or credentials change."""
    with peek_offset(view, 0):
        while (piece := _peek(view)) is not None and piece.data:
            yield piece


@contextmanager
def peek_offset(view: socket.socket, offset: int) -> Iterator[None]:
    """SO_PEEK_OFF within the block: each peek goes on behind the last one."""
    before = view.getsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF)
    view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, offset)
    try:
        yield
    finally:
        view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, before)


def _peek(view: socket.socket) -> PeekedMessage | None:
    try:
        data, ancillary, _, address = view.recvmsg(_MESSAGE_BYTES, _ANCILLARY_BYTES, _PEEK)
    except BlockingIOError:
        return None
    return PeekedMessage(data, ancillary, address)
