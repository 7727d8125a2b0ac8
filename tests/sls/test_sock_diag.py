"""NETLINK_SOCK_DIAG: what it tells of sockets that are made here."""

import os
import socket
from pathlib import Path

import pytest

from sls import sock_diag


def inode_of(made: socket.socket) -> int:
    return os.fstat(made.fileno()).st_ino


def test_pair() -> None:
    left, right = socket.socketpair()
    with left, right:
        left.send(b"hello")
        left.shutdown(socket.SHUT_WR)
        state = sock_diag.unix_socket(inode_of(right))
        assert (state.peer, state.name, state.receive_queue) == (inode_of(left), b"", 5)
        assert (state.shutdown, sock_diag.unix_socket(inode_of(left)).shutdown) == (1, 2)
        left.close()
        assert sock_diag.unix_socket(inode_of(right)).peer == 0


def test_listener(tmp_path: Path) -> None:
    name = str(tmp_path / "listener")
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(name)
        listener.listen(3)
        client.connect(name)
        state = sock_diag.unix_socket(inode_of(listener))
        assert state.state == sock_diag.TCP_LISTEN
        assert (state.name, state.pending) == (os.fsencode(name), (inode_of(client),))
        assert (state.receive_queue, state.send_queue) == (1, 3)
        assert state.node is not None
        assert state.node[0] == os.stat(name).st_ino & 0xFFFFFFFF


def test_abstract_name() -> None:
    with socket.socket(socket.AF_UNIX) as made:
        name = b"\0sls-test\0tail\0"
        made.bind(name)
        assert sock_diag.unix_socket(inode_of(made)).name == name


def test_no_such_socket() -> None:
    with pytest.raises(FileNotFoundError):
        sock_diag.unix_socket(0xFFFFFFF0)


@pytest.mark.root
@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_tcp_sockets_and_destroy(host: str) -> None:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.create_server((host, 0), family=family) as listener:
        port = listener.getsockname()[1]
        with socket.create_connection((host, port)) as client, listener.accept()[0] as accepted:
            found = {one.inode: one for one in sock_diag.tcp_sockets(family, port)}
            assert found.keys() == {inode_of(listener), inode_of(accepted)}
            state = found[inode_of(accepted)]
            assert state.state == sock_diag.TCP_ESTABLISHED
            assert (state.remote_host, state.remote_port) == client.getsockname()[:2]
            sock_diag.destroy(state)
            with pytest.raises(ConnectionError):
                accepted.recv(1)
            sock_diag.destroy(state)  # gone by itself is no error
