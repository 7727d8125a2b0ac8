"""A listener and a connection on CASE[0] whose segments are signed (TCP_MD5SIG, RFC 2385); both ends inside.

What is signed otherwise, or not at all, is dropped, so whoever talks afterwards has the keys.
"""

import os
import socket
import struct

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

host = CASE[0]
family = socket.AF_INET6 if ":" in host else socket.AF_INET


def sign(one: socket.socket, key: bytes, prefix: int = 0) -> None:
    """TCP_MD5SIG, or TCP_MD5SIG_EXT with a prefix."""
    packed = socket.inet_pton(family, host)
    address = struct.pack("=HH", family, 0) + (packed if len(packed) == 4 else bytes(4) + packed)
    fields = struct.pack("=128sBBHi80s", address, bool(prefix), prefix, len(key), 0, key)
    one.setsockopt(socket.IPPROTO_TCP, 32 if prefix else 14, fields)


def connected(key: bytes) -> socket.socket | None:
    one = socket.socket(family)
    one.settimeout(0.5)
    if key:
        sign(one, key)
    try:
        one.connect(listener.getsockname())
    except TimeoutError:
        return None
    return one


listener = socket.socket(family)
listener.bind((host, 0))
sign(listener, b"k" * 80, 8)
sign(listener, b"a secret")
listener.listen()
client = connected(b"a secret")
if client is None:
    raise SystemExit("no connection")
server, _ = listener.accept()
client.send(b"before")
child = os.fork()
if not child:
    wait_along()
    expect("unsigned", connected(b""), None)
    expect("wrong", connected(b"another"), None)
    late = connected(b"a secret")
    if late is None:
        raise SystemExit("no connection")
    late.send(b"late")
    os._exit(0)
wait_for_go()
client.settimeout(5)
server.settimeout(5)
expect("before", server.recv(100), b"before")
server.send(b"answer")
expect("answer", client.recv(100), b"answer")
listener.settimeout(5)
expect("late", listener.accept()[0].recv(100), b"late")
expect("child", os.waitpid(child, 0), (child, 0))
finish()
