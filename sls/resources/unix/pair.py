"""Connected unix(7) sockets: two at a time, each with its name and with what SO_PEERCRED reads there."""

import os
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

from sls.resources.base import Record, RestoreContext
from sls.resources.socket_options import strerror
from sls.resources.stand_in import Identity, own_identity, run_as
from sls.resources.unix.address import UnixName, bind, bind_without_node

_SO_PEERCRED: Final = 17
_SO_PEERGROUPS: Final = 59
_UCRED = struct.Struct("=iII")
_GROUPS_BYTES: Final = 1024


class UnixEnd(Record, frozen=True):
    """One end of a connection. `peer_identity`: what SO_PEERCRED reads here; None when nothing."""

    name: UnixName
    peer_identity: Identity | None
    is_accepted: bool = False  # its name is that of a listener


class Pair(NamedTuple):
    """Descriptors of both ends, close-on-exec; the restore closes them at its end."""

    first: int
    second: int


def peer_identity(view: socket.socket) -> Identity | None:
    """SO_PEERCRED and SO_PEERGROUPS; None where nobody is remembered."""
    pid, uid, gid = _UCRED.unpack(view.getsockopt(socket.SOL_SOCKET, _SO_PEERCRED, _UCRED.size))
    if not pid and uid == 0xFFFFFFFF:
        return None
    data = view.getsockopt(socket.SOL_SOCKET, _SO_PEERGROUPS, _GROUPS_BYTES)
    return Identity(pid=pid, uid=uid, gid=gid, groups=struct.unpack(f"={len(data) // 4}I", data))


def make_pair(ctx: RestoreContext, kind: int, first: UnixEnd, second: UnixEnd) -> Pair:
    """Connect two new sockets. RestoreConflictError when a name with a node is in use."""
    if kind == socket.SOCK_DGRAM or _is_socketpair(first, second):
        pair = _socketpair(ctx, kind, first.peer_identity or second.peer_identity)
        for fd, end in zip(pair, (first, second), strict=True):
            if end.name.raw:
                bind_end(ctx, fd, kind, end.name)
        return pair
    try:
        if _is_server(first, second):
            server, client = _connection(ctx, kind, first, second)
            return Pair(server, client)
        server, client = _connection(ctx, kind, second, first)
        return Pair(client, server)
    except OSError as error:
        names = ", ".join(end.name.describe() for end in (first, second))
        ctx.note("unix socket", f"a connection lost its names ({names}): {strerror(error)}")
        return _socketpair(ctx, kind, first.peer_identity or second.peer_identity)


def _is_socketpair(first: UnixEnd, second: UnixEnd) -> bool:
    """socketpair(2) writes its caller into both ends; no end has a name of its own."""
    same = (
        first.peer_identity == second.peer_identity
        or first.peer_identity is None
        or second.peer_identity is None
    )
    return same and not first.name.raw and not second.name.raw


def _is_server(first: UnixEnd, second: UnixEnd) -> bool:
    if first.is_accepted != second.is_accepted:
        return first.is_accepted
    return bool(first.name.raw)


def bind_end(ctx: RestoreContext, fd: int, kind: int, name: UnixName) -> None:
    """bind(2) of one end of a pair."""
    with socket.socket(socket.AF_UNIX, kind, fileno=os.dup(fd)) as view:
        bind(ctx, view, name)


def _socketpair(ctx: RestoreContext, kind: int, identity: Identity | None) -> Pair:
    first, second = socket.socketpair(socket.AF_UNIX, kind)
    pair = Pair(ctx.opened(first.detach()), ctx.opened(second.detach()))
    if identity is not None:
        act_as(ctx, identity, lambda: _replace(kind, pair))
    return pair


def _replace(kind: int, pair: Pair) -> None:
    """In the stand-in: a pair of its own under the numbers of `pair`."""
    first, second = socket.socketpair(socket.AF_UNIX, kind)
    os.dup2(first.fileno(), pair.first, inheritable=False)
    os.dup2(second.fileno(), pair.second, inheritable=False)
    first.close()
    second.close()


def act_as(ctx: RestoreContext, identity: Identity, work: Callable[[], object]) -> None:
    """`run_as`, with a note when the number is taken by another process."""
    if not run_as(identity, work):
        ctx.note("unix socket", f"SO_PEERCRED no longer names pid {identity.pid}: it is in use")


def _connection(
    ctx: RestoreContext, kind: int, server: UnixEnd, client: UnixEnd
) -> tuple[int, int]:
    """Listen, connect, accept; the listener goes, its name stays on the accepted socket."""
    with socket.socket(socket.AF_UNIX, kind) as listener:
        if server.name.is_path:
            target = bind_without_node(ctx, listener, server.name)
        else:
            target = server.name.raw
            listener.bind(target)
        act_as(ctx, client.peer_identity or own_identity(), lambda: listener.listen(1))
        connecting = socket.socket(socket.AF_UNIX, kind)
        client_fd = ctx.opened(connecting.detach())
        if client.name.raw:
            bind_end(ctx, client_fd, kind, client.name)
        connect_as(ctx, server.peer_identity, client_fd, target or listener.getsockname())
        accepted, _ = listener.accept()
        return ctx.opened(accepted.detach()), client_fd


def connect_as(ctx: RestoreContext, identity: Identity | None, fd: int, target: bytes) -> None:
    """connect(2) that the other side remembers as `identity`'s."""
    view = socket.socket(fileno=os.dup(fd))
    with view:
        act_as(ctx, identity or own_identity(), lambda: view.connect(target))
