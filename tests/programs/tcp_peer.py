"""The other end of `tcp_rejoin.py` and `tcp_reset.py`, outside. argv[1]: their directory; argv[2]: the mode.

For each file `gap1`, `gap2`, … it does what the mode wants of it while the program is gone, and says so. After `go` it
finishes the exchange and writes to `peer.end` how much it has written and read, or the error.
"""

import os
import socket
import struct
import sys
import time

from tests.programs.tcp_exchange import fill, finish_exchange, pattern, tell

directory, mode = sys.argv[1:]
os.chdir(directory)


def wait_for(path: str) -> None:
    deadline = time.monotonic() + 60
    while not os.path.exists(path):
        if time.monotonic() > deadline:
            sys.exit(f"{path} never came")
        time.sleep(0.002)


wait_for("address")
with open("address", encoding="ascii") as file:
    host, port = file.read().split()
client = socket.create_connection((host, int(port)))
written = 0
if mode in ("queued", "ended", "talk", "reset", "silent"):
    written = client.send(pattern(0, 1000))
if mode == "ended":
    client.shutdown(socket.SHUT_WR)
if mode == "full":
    written = fill(client, 0)
tell("peer.ready", "")
gap = 1
while not os.path.exists("go"):
    time.sleep(0.002)
    if os.path.exists(f"gap{gap}"):
        if mode == "talk":
            written += client.send(pattern(written, 700))
        if mode == "reset" and gap == 1:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("=ii", 1, 0))
            client.close()
        tell(f"gap{gap}.done", "")
        gap += 1
if mode == "reset":
    sys.exit(0)
try:
    read = finish_exchange(client, written, 2000, is_shut=mode == "ended")
    end = f"{written if mode == 'ended' else written + 2000} {read}"
except OSError as error:
    end = type(error).__name__
tell("peer.end", end)
if end[0].isdigit():
    wait_for("second")
    with socket.create_connection((host, int(port))) as second:
        second.send(b"new")
