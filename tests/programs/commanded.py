"""Does what it reads from standard input, a line each: things that a later capture must see (test_later_looks.py).

Holds a connection to PORT on 127.0.0.1, a pipe, an epoll and one more socket. Answers each line with one.
"""

import fcntl
import os
import resource
import select
import signal
import socket
import sys
from collections.abc import Callable


def main(port: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setblocking(False)
    spare = socket.socket()
    read_end, write_end = os.pipe()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    lock_file = os.open(sys.argv[0], os.O_RDONLY)
    epoll = select.epoll()
    epoll.register(connection, select.EPOLLIN)
    actions: dict[str, Callable[[], object]] = {
        "cork": lambda: connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1),
        "uncork": lambda: connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0),
        "read": lambda: connection.recv(1 << 20),
        "send": lambda: connection.send(bytes(1 << 22)),
        "shut": lambda: connection.shutdown(socket.SHUT_WR),
        "fill": lambda: os.write(write_end, b"filled"),
        "empty": lambda: os.read(read_end, 100),
        "watch": lambda: epoll.register(read_end, select.EPOLLIN),
        "unwatch": lambda: epoll.unregister(read_end),
        "listen": lambda: spare.listen(5),
        "keep": lambda: spare.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
        "shrink": lambda: connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000),
        "bind": lambda: spare.bind(("127.0.0.1", 0)),
        "replace": lambda: _replace(spare.fileno()),
        "unblock": lambda: os.set_blocking(read_end, False),
        "ignore": lambda: signal.signal(signal.SIGUSR1, signal.SIG_IGN),
        "mask": lambda: os.umask(0o37),
        "limit": lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (100, most_files)),
        "move": lambda: os.chdir("/"),
        "time": lambda: signal.setitimer(signal.ITIMER_PROF, 5000),
        "lock": lambda: fcntl.flock(lock_file, fcntl.LOCK_SH),
    }  # fmt: skip
    print(connection.fileno(), spare.fileno(), read_end, epoll.fileno(), flush=True)
    for line in sys.stdin:
        actions[line.strip()]()
        print(line.strip(), flush=True)


def _replace(fd: int) -> None:
    """Another socket, of another kind, under the same number."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        os.dup2(other.fileno(), fd, inheritable=False)


main(int(sys.argv[1]))
