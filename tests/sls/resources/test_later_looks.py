"""What a program does between two captures of many is in the later one, also where that only repeats looks.

From the third capture on, sockets, pipes and epolls are looked at in one go, and records are made when the program runs
again (`sls.resources.socket_sight`, `borrowing`). Each change here must be in the very next capture.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from sls import syscalls
from sls.capture import Tracer
from sls.image import Image
from sls.resources import MemoryRecord
from sls.resources.epoll import EpollRecord
from sls.resources.inet.connection import TcpConnection
from sls.resources.inet.tcp import TcpSocketRecord
from sls.resources.pipe import PipeRecord
from sls.resources.timers import IntervalTimersRecord
from tests.sls.apart import apart
from tests.sls.driver import PROGRAMS

pytestmark = pytest.mark.root

_CORK = (socket.IPPROTO_TCP, socket.TCP_CORK)
_KEEP_ALIVE = (socket.SOL_SOCKET, socket.SO_KEEPALIVE)


class Program(NamedTuple):
    """tests/programs/commanded.py, its descriptors, and the other end of its connection."""

    process: "subprocess.Popen[str]"
    peer: socket.socket
    connection: int
    spare: int
    read_end: int
    epoll: int

    def do(self, action: str) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{action}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == action

    def hear(self, text: bytes) -> None:
        """Have it come over the connection: on a busy machine that takes the kernel a moment, even here."""
        self.peer.sendall(text)
        pidfd = os.pidfd_open(self.process.pid)
        with socket.socket(fileno=syscalls.pidfd_getfd(pidfd, self.connection)) as end:
            os.close(pidfd)
            assert select.select([end], [], [], 30)[0]


@pytest.fixture
def program() -> Iterator[Program]:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
        command = [sys.executable, str(PROGRAMS / "commanded.py"), f"{port}"]
        with subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        ) as process:
            peer, _ = listener.accept()
            try:
                assert process.stdout is not None
                yield Program(process, peer, *map(int, process.stdout.readline().split()))
            finally:
                process.send_signal(signal.SIGKILL)
                peer.close()


class Watched:
    """The program under a tracer, whose captures only repeat looks by now."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self._tracer = Tracer()
        for _ in range(4):
            self.image = self._capture()
        assert self._only_repeats()

    def _capture(self) -> Image:
        pids = [self.program.process.pid]
        return self._tracer.capture(lambda: pids, full=False, track=True, stay=True).image

    def _only_repeats(self) -> bool:
        memo = self._tracer.member(self.program.process.pid, 0, self._start_time()).memo
        waits: bool = memo.of("files can wait", b"", lambda: False)
        return waits

    def _start_time(self) -> int:
        (member,) = self._tracer._members.values()
        return member.start_time

    def after(self, action: str) -> "Watched":
        if action:
            self.program.do(action)
        self.image = self._capture()
        return self

    def record(self, fd: int) -> Any:
        (process,) = self.image.processes
        (file_id,) = (one.file_id for one in process.descriptors if one.fd == fd)
        (record,) = (one for one in self.image.files if one.file_id == file_id)
        return record

    def option(self, fd: int, which: tuple[int, int]) -> int:
        record = self.record(fd)
        assert isinstance(record, TcpSocketRecord)
        values = {(one.level, one.number): one.value for one in record.options}
        return int.from_bytes(values.get(which, b""), sys.byteorder)

    def connection(self) -> TcpConnection:
        record = self.record(self.program.connection)
        assert isinstance(record, TcpSocketRecord)
        assert record.connection is not None
        return record.connection

    def packets(self) -> tuple[bytes, ...]:
        record = self.record(self.program.read_end)
        assert isinstance(record, PipeRecord)
        return record.packets

    def watched(self) -> set[int]:
        record = self.record(self.program.epoll)
        assert isinstance(record, EpollRecord)
        return {one.number for one in record.entries}

    def end(self) -> None:
        self._tracer.leave(lambda: [self.program.process.pid])


def _options(program: Program) -> None:
    watched = Watched(program)
    for _ in range(2):  # there and back: what was seen before the last capture does not count
        assert watched.after("cork").option(program.connection, _CORK) == 1
        assert watched.after("uncork").option(program.connection, _CORK) == 0
    assert watched.after("keep").option(program.spare, _KEEP_ALIVE) == 1
    watched.end()


def _unread(program: Program) -> None:
    watched = Watched(program)
    assert watched.connection().unread == b""
    for text in (b"one", b"another"):
        program.hear(text)
        assert watched.after("").connection().unread == text
        assert watched.after("read").connection().unread == b""
    watched.end()


def _unconfirmed(program: Program) -> None:
    """More than the peer's buffer takes: what it has not confirmed is read in repair mode, in the stop."""
    watched = Watched(program)
    before = watched.connection().endpoint
    assert before is not None
    after = watched.after("send").connection().endpoint
    assert after is not None
    assert after.written
    assert not any(after.written)
    confirmed = after.unacknowledged - before.unacknowledged
    program.peer.setblocking(False)
    taken = 0
    while taken < confirmed:
        taken += len(program.peer.recv(1 << 20))
    watched.end()


def _state(program: Program) -> None:
    watched = Watched(program)
    endpoint = watched.after("shut").connection().endpoint
    assert endpoint is not None
    assert endpoint.has_sent_fin
    assert watched.record(program.spare).backlog is None
    assert watched.after("listen").record(program.spare).backlog == 5
    watched.end()


def _pipe(program: Program) -> None:
    watched = Watched(program)
    for _ in range(2):
        assert watched.after("fill").packets() == (b"filled",)
        assert watched.after("empty").packets() == ()
    watched.end()


def _epoll(program: Program) -> None:
    watched = Watched(program)
    for _ in range(2):
        assert watched.after("watch").watched() == {program.connection, program.read_end}
        assert watched.after("unwatch").watched() == {program.connection}
    assert not watched.record(program.epoll).is_ready
    program.hear(b"x")
    assert watched.after("").record(program.epoll).is_ready
    watched.end()


_MOVING = (MemoryRecord, IntervalTimersRecord)
_CHANGES = [
    "cork", "keep", "shrink", "bind", "listen", "shut", "fill", "watch", "unblock", "ignore", "mask",
    "limit", "move", "time", "lock", "replace",
]  # fmt: skip


def _as_asked(program: Program) -> None:
    """What a capture that repeats looks tells is what another tracer, which knows nothing yet, is told."""
    for action in _CHANGES:
        if action == "cork":
            program.peer.sendall(b"unread")
        watched = Watched(program).after(action)
        repeated = watched.image
        watched.end()
        asked = Tracer().capture(lambda: [program.process.pid], full=True, track=False).image
        assert _comparable(repeated) == _comparable(asked), action


def _comparable(image: Image) -> Any:
    """The records of files and of the process, but for what moves by itself."""
    (process,) = image.processes
    states = [one for one in process.states if not isinstance(one, _MOVING)]
    return [_at_no_time(one) for one in image.files], states, process.descriptors, image.losses


def _at_no_time(record: Any) -> Any:
    """Without a connection's clock, which goes on, and its windows, which a delayed confirmation moves."""
    connection = getattr(record, "connection", None)
    if connection is None or connection.endpoint is None:
        return record
    moving = ("timestamp", "send_window", "largest_send_window", "receive_window")
    endpoint = replace(connection.endpoint, **dict.fromkeys(moving, 0))
    return replace(record, connection=replace(connection, endpoint=endpoint))


@pytest.mark.parametrize(
    "work", [_as_asked, _options, _unread, _unconfirmed, _state, _pipe, _epoll]
)
def test_is_in_the_next_capture(program: Program, work: Any) -> None:
    apart(lambda: work(program))
