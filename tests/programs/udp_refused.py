"""A connected UDP socket whose peer is gone: an ICMP error is pending; a capture leaves it there."""

import socket

from tests.programs.protocol import CASE, expect, finish, wait_for_go

gone = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
gone.bind(("127.0.0.1", 0))
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(gone.getsockname())
gone.close()
sender.send(b"anybody")
wait_for_go()
sender.settimeout(0.2)
try:
    expect("data", sender.recv(100), "an error")
except ConnectionRefusedError:
    expect("error", "ECONNREFUSED", CASE[0])
except TimeoutError:
    expect("error", "none", CASE[0])
finish()
