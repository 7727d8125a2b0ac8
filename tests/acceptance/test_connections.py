"""Row x23 with the other end outside: a client of redis-server keeps its connection while the server is away."""

import os
import resource
import signal
import socket
import threading
from collections.abc import Iterator
from itertools import count

import pytest

from tests.acceptance.job import Job
from tests.acceptance.test_real_programs import needs
from tests.mounts import MakeMount

pytestmark = [pytest.mark.root, pytest.mark.fuse, needs("redis-server")]

DEPTH = 50


class Client:
    """One connection, never made anew."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self._answers = self._socket.makefile("rb")
        self._next = count(1)

    def increment(self, times: int = 1) -> None:
        """A pipeline of increments, each answer checked."""
        self._socket.sendall(f"INCR {id(self)}\r\n".encode() * times)
        for _ in range(times):
            assert self._answers.readline() == b":%d\r\n" % next(self._next)

    def close(self) -> None:
        self._answers.close()
        self._socket.close()


@pytest.fixture
def port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        found: int = free.getsockname()[1]
        return found


@pytest.fixture
def clients(port: int) -> Iterator[list[Client]]:
    """Made by `serve`, when there is a server."""
    made: list[Client] = []
    yield made
    for client in made:
        client.close()


def serve(job: Job, port: int, clients: list[Client]) -> None:
    job.start("redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1")
    job.wait_for(lambda: "Ready to accept" in job.text(), "redis-server")
    clients += [Client(port), Client(port)]
    for client in clients:
        client.increment()


def end_with(job: Job, words: str = "kill") -> None:
    job.checkpoint(words)
    job.forget_child()
    assert job.members() == []


def test_x23_client_under_load(job: Job, port: int, clients: list[Client]) -> None:
    """It asks on while the server is gone: every answer comes, once."""
    serve(job, port, clients)
    busy, quiet = clients
    is_over = threading.Event()

    def work() -> None:
        while not is_over.is_set():
            busy.increment(DEPTH)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        for _ in range(3):
            job.checkpoint()  # the next one counts on from what this one has seen
            quiet.increment()
            end_with(job)
            job.restore()
            quiet.increment()
    finally:
        is_over.set()
        thread.join(60)
    assert not thread.is_alive()
    busy.increment()
    assert "comes back reset: " not in job.log()


def test_x23_restore_in_place(job: Job, port: int, clients: list[Client]) -> None:
    """`restore kill`: a connection that stands where it stood goes on; what has gone on since is reset."""
    serve(job, port, clients)
    still, moved = clients
    end_with(job)
    job.restore()  # the server is the mount's child from now on, which waits for its end
    job.checkpoint()
    moved.increment()
    job.restore("kill")
    still.increment()
    with pytest.raises(ConnectionResetError):
        moved.increment()
    assert "comes back reset: the peer has " in job.log()


def test_x23_daemon_crash(
    make_mount: MakeMount, port: int, clients: list[Client], job: Job
) -> None:
    """The daemon is killed while the server is away: the network is as before, and a quiet client still joins."""
    mounted = make_mount().mount()
    own = Job(mounted.partition(1, create=True), job.directory)
    try:
        serve(own, port, clients)
        end_with(own)
        os.kill(mounted.daemon, signal.SIGKILL)
        mounted.clean_up()
        own.partition = mounted.mount().partition(1)
        own.restore()
        for client in clients:
            client.increment()
    finally:
        own.end()


def test_x04_full_disk(make_mount: MakeMount, port: int, clients: list[Client], job: Job) -> None:
    """What cannot be kept is not ended: server and clients go on; with room again it works."""
    mounted = make_mount().mount()
    own = Job(mounted.partition(1, create=True), job.directory)
    try:
        serve(own, port, clients)
        room = (mounted.store.stat().st_size, resource.RLIM_INFINITY)
        resource.prlimit(mounted.daemon, resource.RLIMIT_FSIZE, room)
        code, reason = own.refusal("checkpoint", "kill")
        assert (code, bool(reason)) != (0, False)
        for client in clients:
            client.increment()
        resource.prlimit(mounted.daemon, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)
        end_with(own)
        own.restore()
        for client in clients:
            client.increment()
    finally:
        own.end()
