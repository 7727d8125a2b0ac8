"""A TCP connection with both ends inside, and an urgent byte not read yet (CASE[0]: `outline`, `inline`, `first`);
`read`: what is behind it is not read yet; `before`: nor what is before it.
"""

import array
import fcntl
import socket
import termios
import time

from tests.programs.protocol import CASE, expect, finish, wait_for_go


def is_at_mark() -> bool:
    answer = array.array("i", [0])
    fcntl.ioctl(receiver, 0x8905, answer)  # SIOCATMARK
    return bool(answer[0])


def unread() -> int:
    answer = array.array("i", [0])
    fcntl.ioctl(receiver, termios.FIONREAD, answer)
    return answer[0]


mode = CASE[0]
with socket.create_server(("127.0.0.1", 0)) as listener:
    sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()
if mode == "inline":
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
is_first = mode in ("first", "read")
if not is_first:
    sender.send(b"abc")
sender.send(b"x", socket.MSG_OOB)
sender.send(b"def")
while not is_at_mark() if is_first else unread() < 3:
    time.sleep(0.001)
if mode in ("read", "before"):
    expect("urgent", receiver.recv(1, socket.MSG_OOB), b"x")
wait_for_go()
receiver.settimeout(30)
if not is_first:
    expect("before the mark", receiver.recv(100), b"abc")
expect("mark", is_at_mark(), True)
if mode in ("outline", "first"):
    expect("urgent", receiver.recv(1, socket.MSG_OOB), b"x")
expect("behind the mark", receiver.recv(100), b"xdef" if mode == "inline" else b"def")
sender.send(b"more")
expect("more", receiver.recv(100), b"more")
finish()
