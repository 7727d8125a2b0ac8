"""A redis-server and a client of it that never leaves its one connection: pipelines of increments, each answer checked.

argv: go file, port. Prints the count after each pipeline.
"""

import socket
import subprocess
import sys

from tests.programs.protocol import expect, finish, is_time_to_go

DEPTH = 50

port = sys.argv[2]
server = subprocess.Popen(
    ["redis-server", "--port", port, "--save", "", "--bind", "127.0.0.1", "--loglevel", "warning"],
    stdout=subprocess.DEVNULL,
)
while True:
    try:
        connection = socket.create_connection(("127.0.0.1", int(port)))
        break
    except ConnectionRefusedError:
        expect("redis-server", server.poll(), None)
answers = connection.makefile("rb")
print("ready", flush=True)
count = 0
while not is_time_to_go():
    connection.sendall(b"INCR count\r\nAPPEND text x\r\n" * DEPTH)
    for _ in range(DEPTH):
        count += 1
        expect("count", answers.readline(), b":%d\r\n" % count)
        expect("length", answers.readline(), b":%d\r\n" % count)
    print(count, flush=True)
connection.sendall(b"SHUTDOWN NOSAVE\r\n")
expect("end of the connection", answers.read(), b"")
expect("status of redis-server", server.wait(), 0)
finish()
