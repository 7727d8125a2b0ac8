"""What waits in a socket's receive queue, read with MSG_PEEK: nothing is taken out (recv(2), socket(7) SO_PEEK_OFF).

Not a resource of its own: part of the records of unix and UDP sockets. One kernel fact limits it: an empty message that
was peeked once is skipped by later peeks behind the first place (net/core/datagram.c, `skb->peeked`). So what an
earlier capture saw is remembered, and put back between what is seen now; another tracer's captures are not.
"""

import fcntl
import select
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final, NamedTuple

from sls import syscalls
from sls.resources.base import CaptureContext, OpenFile

_SO_PEEK_OFF: Final = 42
_FROM_THE_HEAD: Final = -1
_SIOCINQ, _SIOCOUTQ = 0x541B, 0x5411
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
    return _asked(view, _SIOCINQ)


def outgoing_bytes(view: socket.socket) -> int:
    """SIOCOUTQ, tcp(7), udp(7): written, and not acknowledged or not out yet."""
    return _asked(view, _SIOCOUTQ)


def _asked(view: socket.socket, request: int) -> int:
    return int(struct.unpack("=i", fcntl.ioctl(view.fileno(), request, bytes(4)))[0])


def is_peekable(ctx: CaptureContext, file: OpenFile, view: socket.socket) -> bool:
    """Whether to look at all: a recvmsg(2) would take a pending error away, so such a queue must be empty."""
    poller = select.poll()
    poller.register(view.fileno(), select.POLLIN | select.POLLPRI)
    events = dict(poller.poll(0)).get(view.fileno(), 0)
    refuse_urgent(file, events)
    if not events & select.POLLERR:
        return bool(events & select.POLLIN)
    if readable_bytes(view):
        raise file.unsupported(
            "a socket with a pending error and unread data; let the program read them"
        )
    ctx.lose(file.pid, f"fd {file.fd}", "the socket's pending error is gone after a restore")
    return False


def refuse_urgent(file: OpenFile, events: int, *, is_at_mark: bool = False) -> None:
    """UnsupportedResourceError where there is urgent data: what follows it cannot be looked at in its place.

    `events`: of poll(2). With POLLERR, POLLPRI is of the error queue (SO_SELECT_ERR_QUEUE).
    """
    if is_at_mark or events & (select.POLLPRI | select.POLLERR) == select.POLLPRI:
        raise file.unsupported(
            "a socket with urgent data (MSG_OOB) not read yet; try again when the program has read it"
        )


def peek_messages(file: OpenFile, view: socket.socket) -> list[PeekedMessage]:
    """Every message of a queue that keeps boundaries, in order."""
    seen = list(_visible_messages(view))
    what = f"queue of {file.target.decode()}"
    before: tuple[PeekedMessage, ...] = file.process.memo.of(what, b"", tuple)
    found = _with_hidden(before, seen)
    if any(not one.data for one in found[1:]):
        file.process.memo.put(what, b"", tuple(_without_rights(one) for one in found))
    else:
        file.process.memo.drop(what)
    return found


def _with_hidden(
    before: Sequence[PeekedMessage], seen: Sequence[PeekedMessage]
) -> list[PeekedMessage]:
    """What is in the queue, by what is seen of it and what was in it before; the first of those may be gone."""
    signs = [(one.data, one.address) for one in seen]
    for gone in range(len(before)):
        rest = before[gone:]
        shown = [place for place, one in enumerate(rest) if one.data or not place]
        if [(rest[place].data, rest[place].address) for place in shown] == signs[: len(shown)]:
            now = dict(zip(shown, seen, strict=False))
            return [now.get(place, one) for place, one in enumerate(rest)] + list(
                seen[len(shown) :]
            )
    return list(seen)


def _without_rights(message: PeekedMessage) -> PeekedMessage:
    """For memory: descriptors that came with it are closed by then."""
    return message._replace(
        ancillary=[one for one in message.ancillary if one[1] != socket.SCM_RIGHTS]
    )


def _visible_messages(view: socket.socket) -> Iterator[PeekedMessage]:
    with peek_offset(view, _FROM_THE_HEAD):
        first = _peek(view)
        if first is None or _is_end(view, first):
            return
        yield first
        view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, len(first.data))
        while (message := _peek(view)) is not None and not _is_end(view, message):
            yield message


def _is_end(view: socket.socket, message: PeekedMessage) -> bool:
    """Where no more can come (SOCK_SEQPACKET), the end reads as an empty message without end."""
    if message.data or message.ancillary or view.type != socket.SOCK_SEQPACKET:
        return False
    poller = select.poll()
    poller.register(view.fileno(), select.POLLRDHUP)
    return bool(poller.poll(0))


def peek_stream(file: OpenFile, view: socket.socket) -> Iterator[PeekedMessage]:
    """A byte stream in pieces: one begins where descriptors were sent, or credentials change."""
    position = 0
    with peek_offset(view, 0):
        while (piece := _peek(view)) is not None and piece.data:
            plain = _bytes_before_rights(view, position, piece)
            if plain:
                rest = [one for one in piece.ancillary if one[1] != socket.SCM_RIGHTS]
                yield PeekedMessage(piece.data[:plain], rest, piece.address)
            yield PeekedMessage(piece.data[plain:], piece.ancillary, piece.address)
            position += len(piece.data)
            view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, position)


def _bytes_before_rights(view: socket.socket, position: int, piece: PeekedMessage) -> int:
    """Where in a piece its descriptors were sent.

    A piece is what one peek returns: bytes without descriptors run into those with them (unix(7)), also when the peek
    is shorter (net/unix/af_unix.c goes on to the next buffer). But a buffer that cannot be copied whole ends it before.
    """
    if len(piece.data) < 2 or not any(kind == socket.SCM_RIGHTS for _, kind, _ in piece.ancillary):
        return 0
    view.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, position)
    return syscalls.peek_short(view.fileno(), len(piece.data), _PEEK)


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
