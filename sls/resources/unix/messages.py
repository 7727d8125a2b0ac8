"""Queues of unix(7) sockets: pieces of a stream or whole messages, who sent them, and descriptors in flight."""

import array
import os
import socket
import struct
from collections.abc import Sequence
from typing import Final

from sls.resources.base import CaptureContext, OpenFile, Record, RestoreContext
from sls.resources.socket_queue import is_peekable, peek_messages, peek_stream
from sls.resources.stand_in import Identity
from sls.resources.unix.address import UnixName, bind_without_node, raw_name
from sls.resources.unix.pair import act_as

_UCRED: Final = struct.Struct("=iII")
_NOBODY: Final = 65534
_SCM_CREDENTIALS, _SCM_PIDFD, _SCM_SECURITY = 2, 4, 3


class UnixMessage(Record, frozen=True):
    """One message, or a piece of a stream.

    `sender`: name of a datagram's; `sender_file`: its file id if inside. `credentials`: what SCM_CREDENTIALS
    reads. `files`: descriptions in flight (SCM_RIGHTS), by file id.
    """

    data: bytes
    sender: bytes = b""
    sender_file: int = 0
    credentials: Identity | None = None
    files: tuple[int, ...] = ()


def capture_queue(
    ctx: CaptureContext, file: OpenFile, view: socket.socket
) -> tuple[UnixMessage, ...]:
    """Everything that waits to be received; `sender_file` is not known yet."""
    if not is_peekable(ctx, file, view):
        return ()
    peek = peek_stream if view.type == socket.SOCK_STREAM else peek_messages
    queue = []
    for message in peek(file, view):
        credentials, descriptors = _ancillary(message.ancillary)
        queue.append(
            UnixMessage(
                data=message.data,
                sender=raw_name(message.address or b""),
                credentials=credentials,
                files=tuple(ctx.adopt(fd, file) for fd in descriptors),
            )
        )
    return tuple(queue)


def _ancillary(parts: Sequence[tuple[int, int, bytes]]) -> tuple[Identity | None, list[int]]:
    """Credentials, and descriptors that are now open here."""
    credentials = None
    descriptors: list[int] = []
    for level, kind, data in parts:
        if level != socket.SOL_SOCKET:
            continue
        if kind == socket.SCM_RIGHTS:
            descriptors += array.array("i", data[: len(data) // 4 * 4])
        elif kind == _SCM_PIDFD:
            os.close(struct.unpack("=i", data[:4])[0])
        elif kind == _SCM_CREDENTIALS:
            pid, uid, gid = _UCRED.unpack(data)
            if pid or uid != _NOBODY:
                credentials = Identity(pid=pid, uid=uid, gid=gid)
    return credentials, descriptors


def send(
    ctx: RestoreContext, view: socket.socket, message: UnixMessage, target: bytes | None
) -> None:
    """Queue one message again, as its sender; to `target`, or along the connection."""
    ancillary: list[tuple[int, int, bytes]] = []
    if message.files:
        descriptors = array.array("i", (ctx.descriptor(one) for one in message.files))
        ancillary.append((socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors.tobytes()))
    if message.credentials is None:
        _send_all(view, message.data, ancillary, target)
        return
    who = message.credentials
    ancillary.append((socket.SOL_SOCKET, _SCM_CREDENTIALS, _UCRED.pack(who.pid, who.uid, who.gid)))
    act_as(ctx, who, lambda: _send_all(view, message.data, ancillary, target))


def _send_all(
    view: socket.socket,
    data: bytes,
    ancillary: list[tuple[int, int, bytes]],
    target: bytes | None,
) -> None:
    """One sendmsg(2), several for a long stream; what was queued once has room again."""
    done = view.sendmsg([data], ancillary, socket.MSG_DONTWAIT, target)
    while done < len(data):
        done += view.sendmsg([data[done:]], [], socket.MSG_DONTWAIT, target)


def send_from_nowhere(ctx: RestoreContext, kind: int, message: UnixMessage, target: bytes) -> None:
    """A datagram whose sender is gone or outside: sent by a socket of that name, which exists for this only."""
    with socket.socket(socket.AF_UNIX, kind) as sender:
        if message.sender:
            try:
                name = UnixName(raw=message.sender)
                if name.is_path:
                    bind_without_node(ctx, sender, name)
                else:
                    sender.bind(message.sender)
            except OSError:
                ctx.note(
                    "unix socket",
                    f"the sender's name {name.describe()} of a queued datagram is lost",
                )
        send(ctx, sender, message, target)
