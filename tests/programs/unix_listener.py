"""A listener of type CASE[0] at a name of CASE[1]: `path`, `relative`, `abstract`, `unlinked`.

A client in a child is accepted, one of its own waits to be accepted; both have talked as far as they may. CASE[2]
`apart`: all that in a mount namespace of its own.
"""

import ctypes
import os
import socket
import stat
import struct
import sys

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

kind, where = socket.SocketKind[f"SOCK_{CASE[0]}"], CASE[1]
names: dict[str, str | bytes] = {
    "path": os.path.abspath("listener"),
    "unlinked": os.path.abspath("gone"),
    "relative": "listener",
    "abstract": b"\0sls-test-%d" % os.getpid(),
}
name = names[where]


if "apart" in CASE:
    expect("unshare", ctypes.CDLL(None).unshare(0x20000), 0)


def credentials(end: socket.socket) -> tuple[int, ...]:
    return struct.unpack("=3i", end.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))


listener = socket.socket(socket.AF_UNIX, kind)
listener.bind(name)
listener.listen(5)
if where != "abstract":
    os.chmod(name, 0o666)
    os.chmod(".", 0o777)
own = (os.getpid(), os.getuid(), os.getgid())
child = os.fork()
if not child:
    client = socket.socket(socket.AF_UNIX, kind)
    client.bind(b"\0sls-client-%d" % os.getpid())
    os.setegid(66)
    os.seteuid(77)
    client.connect(name if where == "abstract" else os.path.basename(name))
    os.seteuid(0)
    os.setegid(0)
    client.send(b"hello")
    wait_along()
    expect("credentials of the listener", credentials(client), own)
    expect("words to the child", client.recv(100), b"queued")
    client.send(b"bye")
    sys.exit(0)
accepted, address = listener.accept()
expect("client's name", address, b"\0sls-client-%d" % child)
accepted.send(b"queued")
wanted = credentials(accepted)
expect("client's credentials", wanted, (child, 77, 66))
waiting = socket.socket(socket.AF_UNIX, kind)
waiting.connect(name)
if where == "unlinked":
    os.unlink(name)
elif where != "abstract":
    os.chmod(name, 0o640)
    os.chown(name, 12, 34)
wait_for_go()
expect("client's credentials", credentials(accepted), wanted)
expect("names", (accepted.getsockname(), accepted.getpeername()), (name, address))
expect("name", listener.getsockname(), name)
expect("words", accepted.recv(5), b"hello")
expect("more words", accepted.recv(100), b"bye")
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
second, _ = listener.accept()
expect("waiting client's credentials", credentials(second), own)
waiting.send(b"at last")
expect("words of the one that waited", second.recv(100), b"at last")
if where == "unlinked":
    expect("node", os.path.exists(name), False)
else:
    if where != "abstract":
        found = os.lstat("listener")
        expect("node", (stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid), (0o640, 12, 34))
        os.chmod("listener", 0o600)
    third = socket.socket(socket.AF_UNIX, kind)
    third.connect(name)
    fourth, _ = listener.accept()
    fourth.send(b"new")
    expect("new connection", third.recv(100), b"new")
finish()
