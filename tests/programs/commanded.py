"""Does what it reads from standard input, a line each: things that a later capture must see (test_later_looks.py).

Holds a connection to PORT on 127.0.0.1, a pipe, an epoll and one more socket. Answers each line with one.
"""

import os
import select
import socket
import sys
from collections.abc import Callable


def main(port: int) -> None:
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setblocking(False)
    spare = socket.socket()
    read_end, write_end = os.pipe()
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
    }  # fmt: skip
    print(connection.fileno(), spare.fileno(), read_end, epoll.fileno(), flush=True)
    for line in sys.stdin:
        actions[line.strip()]()
        print(line.strip(), flush=True)


main(int(sys.argv[1]))
