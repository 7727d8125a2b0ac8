"""Descriptor 5 is a unix socket of type CASE[0] whose other end is outside and has sent `hello`.

CASE[1] is `closed` where the other end counts as closed by then, `open` where it goes on, `named` where it is a
datagram socket that is found again by its name.
"""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

end = socket.socket(fileno=5)
if CASE[1] == "named":
    end.connect("outside")
wait_for_go()
if CASE[1] != "named":
    expect("unread", end.recv(100), b"hello")
if CASE[1] == "closed":
    end.settimeout(30)
    if CASE[0] != "DGRAM":
        expect("end", end.recv(100), b"")
    try:
        end.send(b"no")
        expect("send", "success", "an error")
    except (BrokenPipeError, ConnectionRefusedError):
        pass
else:
    end.send(b"to outside")
finish()
