"""unix(7) sockets of all three types: listening, connected, bound, fresh; with queues, names and credentials.

A peer outside of the partition comes back as a closed one, unless it has a name under which it is found again.

Not kept: a pending error, told; urgent data, refused.
Kernel: Linux 3.3 (sock_diag); SO_PEEK_OFF of streams 4.4.
"""

import os
import socket
from collections.abc import Iterator
from typing import Final, NamedTuple

from msgspec.structs import replace

from sls import proc, sock_diag
from sls.resources.base import (
    CaptureContext,
    FileRecord,
    FileType,
    OpenFile,
    Record,
    RestoreContext,
)
from sls.resources.socket_options import (
    SocketOption,
    inode_of,
    is_socket,
    restore_options,
    socket_view,
)
from sls.resources.socket_sight import capture_options, socket_kind
from sls.resources.stand_in import Identity, own_identity
from sls.resources.unix.address import UnixName, bind, capture_name, raw_name
from sls.resources.unix.messages import UnixMessage, capture_queue, send, send_from_nowhere
from sls.resources.unix.pair import (
    Pair,
    UnixEnd,
    act_as,
    connect_as,
    make_pair,
    peer_identity,
)
from sls.sock_diag import UnixState

_SO_SNDBUFFORCE: Final = 32
_AMPLE_BYTES: Final = 1 << 26
_SHUTDOWNS: Final = {1: socket.SHUT_RD, 2: socket.SHUT_WR, 3: socket.SHUT_RDWR}


class UnixPeer(Record, frozen=True):
    """The other end. `inode` 0: closed. `file_id` 0: not in the image. `is_mutual`: it is connected to us as well."""

    inode: int
    file_id: int
    end: UnixEnd
    is_mutual: bool


class UnixWaiting(Record, frozen=True):
    """A client in the image that waits to be accepted, and who it is."""

    file_id: int
    identity: Identity


class UnixSocketRecord(FileRecord, frozen=True, tag="unix_socket"):
    """One unix socket. `backlog`: None when it does not listen. `shutdown`: 1 reading, 2 writing."""

    kind: int
    inode: int
    end: UnixEnd
    backlog: int | None
    waiting: tuple[UnixWaiting, ...]
    peer: UnixPeer | None
    shutdown: int
    options: tuple[SocketOption, ...]
    queue: tuple[UnixMessage, ...]


class UnixSocket(FileType[UnixSocketRecord]):
    """Stream, datagram and sequenced-packet sockets."""

    record = UnixSocketRecord
    is_of_sockets = True
    holds_files = True

    def matches(self, file: OpenFile) -> bool:
        return is_socket(file) and socket_kind(file).domain == socket.AF_UNIX

    def capture(self, ctx: CaptureContext, file: OpenFile) -> UnixSocketRecord:
        queue = _queues(ctx)[file.file_id]
        state = _known(ctx)[inode_of(file)].state
        is_listening = state.state == sock_diag.TCP_LISTEN
        options = capture_options(ctx, file)
        if proc.numbers_below(
            file.process.status
        ).process:  # a stand-in cannot be in it, for it is made later
            words = (
                "SO_PEERCRED and SCM_CREDENTIALS tell 0 for pids from before, in its pid namespace"
            )
            ctx.lose(file.pid, f"fd {file.fd}", words)
        with socket_view(file.descriptor) as view:
            return UnixSocketRecord(
                file_id=file.file_id,
                flags=file.flags,
                kind=view.type,
                inode=state.inode,
                end=_end(ctx, file, state),
                backlog=state.send_queue if is_listening else None,
                waiting=_waiting(ctx, file, state) if is_listening else (),
                peer=None if is_listening else _peer(ctx, file, state),
                shutdown=state.shutdown,
                options=options,
                queue=tuple(
                    replace(one, sender_file=_names(ctx).get(one.sender, 0)) for one in queue
                ),
            )

    def restore(self, ctx: RestoreContext, record: UnixSocketRecord) -> int:
        if _is_pair(record):
            pair = _pair(ctx, record)
            return os.dup(pair.first if _is_first(record) else pair.second)
        view = socket.socket(socket.AF_UNIX, record.kind)
        try:
            if record.end.name.raw and record.backlog is None:
                target = bind(ctx, view, record.end.name)
                ctx.once(("unix address", record.file_id), lambda: target)
        except BaseException:
            view.close()
            raise
        return view.detach()

    def settle(self, ctx: RestoreContext, record: UnixSocketRecord, fd: int) -> Iterator[None]:
        with socket_view(fd) as view:
            if record.backlog is not None:
                _listen(ctx, view, record, record.backlog)
            _refill(ctx, record)
            yield
            if record.peer is not None and not _is_pair(record):
                _connect(ctx, view, record.peer)
            for client in record.waiting:
                target = ctx.once(("unix address", record.file_id), lambda: record.end.name.raw)
                connect_as(ctx, client.identity, ctx.descriptor(client.file_id), target)
            yield
            if record.shutdown and record.backlog is None:
                view.shutdown(_SHUTDOWNS[record.shutdown])
            restore_options(ctx, fd, record.options)


# --- capture --------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """A unix socket of the partition."""

    file: OpenFile
    state: UnixState


def _unix_files(ctx: CaptureContext) -> list[OpenFile]:
    return [
        file
        for file in ctx.files.values()
        if is_socket(file) and socket_kind(file).domain == socket.AF_UNIX
    ]


def _queues(ctx: CaptureContext) -> dict[int, tuple[UnixMessage, ...]]:
    """File id → queue of every unix socket: all at once, for a socket in flight in one may be the peer of another."""
    return ctx.once("unix queues", lambda: _peek_all(ctx))


def _peek_all(ctx: CaptureContext) -> dict[int, tuple[UnixMessage, ...]]:
    queues: dict[int, tuple[UnixMessage, ...]] = {}
    while left := [file for file in _unix_files(ctx) if file.file_id not in queues]:
        for file in left:
            with socket_view(file.descriptor) as view:
                is_listening = view.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
                queues[file.file_id] = () if is_listening else capture_queue(ctx, file, view)
    return queues


def _known(ctx: CaptureContext) -> dict[int, _Known]:
    """Inode → socket, of the whole partition."""
    return ctx.once(
        "unix sockets",
        lambda: {
            inode_of(file): _Known(file, sock_diag.unix_socket(inode_of(file)))
            for file in _unix_files(ctx)
        },
    )


def _names(ctx: CaptureContext) -> dict[bytes, int]:
    """Name → file id of bound sockets that may be senders."""
    return ctx.once(
        "unix names",
        lambda: {
            one.state.name: one.file.file_id
            for one in _known(ctx).values()
            if one.state.name and one.state.kind != socket.SOCK_STREAM
        },
    )


def _listening_names(ctx: CaptureContext) -> set[tuple[int, bytes]]:
    return ctx.once(
        "unix listeners",
        lambda: {
            (one.state.kind, one.state.name)
            for one in _known(ctx).values()
            if one.state.state == sock_diag.TCP_LISTEN
        },
    )


def _waiting_inodes(ctx: CaptureContext) -> set[int]:
    """Clients that a listener of the partition has yet to accept."""
    return ctx.once(
        "unix clients that wait",
        lambda: {inode for one in _known(ctx).values() for inode in one.state.pending},
    )


def _end(ctx: CaptureContext, file: OpenFile, state: UnixState) -> UnixEnd:
    with socket_view(file.descriptor) as view:
        name = capture_name(file, state)
        return UnixEnd(
            name=name,
            peer_identity=peer_identity(view),
            is_accepted=(state.kind, state.name) in _listening_names(ctx),
        )


def _peer(ctx: CaptureContext, file: OpenFile, state: UnixState) -> UnixPeer | None:
    if state.peer is None or state.inode in _waiting_inodes(ctx):
        return None
    with socket_view(file.descriptor) as view:
        try:
            name = UnixName(raw=raw_name(view.getpeername()))
        except OSError:
            name = UnixName()
    other = _known(ctx).get(state.peer)
    if other is None:
        if state.peer and not (name.raw and state.kind == socket.SOCK_DGRAM):
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                "the peer is outside of the partition; it comes back closed",
            )
        if not state.peer and state.kind == socket.SOCK_DGRAM:
            name = UnixName()  # a closed peer's name may be somebody else's by now
        end = UnixEnd(name=name, peer_identity=None)
        return UnixPeer(inode=state.peer, file_id=0, end=end, is_mutual=not name.raw)
    return UnixPeer(
        inode=state.peer,
        file_id=other.file.file_id,
        end=_end(ctx, other.file, other.state),
        is_mutual=other.state.peer == state.inode,
    )


def _waiting(ctx: CaptureContext, file: OpenFile, state: UnixState) -> tuple[UnixWaiting, ...]:
    found = []
    for inode in state.pending:
        client = _known(ctx).get(inode)
        if client is None:
            ctx.lose(
                file.pid,
                f"fd {file.fd}",
                "a client outside that waits to be accepted is turned away",
            )
            continue
        if client.state.send_queue:
            raise client.file.unsupported(
                "data sent on a connection that is not accepted yet cannot be read; try again when it is"
            )
        found.append(
            UnixWaiting(file_id=client.file.file_id, identity=_identity_of(client.file.pid))
        )
    return tuple(found)


def _identity_of(pid: int) -> Identity:
    status = proc.status(pid)
    return Identity(
        pid=pid,
        uid=int(status["Uid"].split()[1]),
        gid=int(status["Gid"].split()[1]),
        groups=tuple(map(int, status["Groups"].split())),
    )


# --- restore --------------------------------------------------------------------------------------------------------


def _is_pair(record: UnixSocketRecord) -> bool:
    """Whether both ends are made together; a datagram socket connected by name is not."""
    if record.peer is None:
        return False
    if record.kind != socket.SOCK_DGRAM:
        return True
    by_name = bool(record.peer.end.name.raw) and record.end.peer_identity is None
    return not by_name


def _is_first(record: UnixSocketRecord) -> bool:
    assert record.peer is not None
    return not record.peer.file_id or record.inode < record.peer.inode


def _pair(ctx: RestoreContext, record: UnixSocketRecord) -> Pair:
    peer = record.peer
    assert peer is not None
    if not peer.file_id:
        return ctx.once(
            ("unix pair", record.inode),
            lambda: make_pair(ctx, record.kind, record.end, peer.end),
        )
    ends = (record.end, peer.end) if _is_first(record) else (peer.end, record.end)
    return ctx.once(
        ("unix pair", *sorted((record.inode, peer.inode))),
        lambda: make_pair(ctx, record.kind, *ends),
    )


def _listen(
    ctx: RestoreContext, view: socket.socket, record: UnixSocketRecord, backlog: int
) -> None:
    target = bind(ctx, view, record.end.name)
    ctx.once(("unix address", record.file_id), lambda: target)
    act_as(ctx, record.end.peer_identity or own_identity(), lambda: view.listen(backlog))


def _refill(ctx: RestoreContext, record: UnixSocketRecord) -> None:
    if not record.queue:
        return
    if _is_pair(record):
        pair = _pair(ctx, record)
        other = pair.second if _is_first(record) else pair.first
        with socket_view(other) as sender:
            sender.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _AMPLE_BYTES)
            for message in record.queue:
                send(ctx, sender, message, None)
        return
    target = ctx.once(("unix address", record.file_id), lambda: record.end.name.raw)
    for message in record.queue:
        if message.sender_file:
            with socket_view(ctx.descriptor(message.sender_file)) as sender:
                send(ctx, sender, message, target)
        else:
            send_from_nowhere(ctx, record.kind, message, target)


def _connect(ctx: RestoreContext, view: socket.socket, peer: UnixPeer) -> None:
    """A datagram socket to a name: of the image, or of somebody outside (a system logger)."""
    name = peer.end.name.raw
    target = ctx.once(("unix address", peer.file_id), lambda: name)
    try:
        view.connect(target)
    except OSError as error:
        ctx.note(
            "unix socket", f"not connected to {peer.end.name.describe()} any more: {error.strerror}"
        )
