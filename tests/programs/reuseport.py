"""Four listeners on one port with SO_REUSEPORT, in two processes; each connection is accepted by one of them."""

import os
import select
import socket
import sys

from tests.programs.protocol import expect, finish, wait_along, wait_for_go


def listen(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind(("127.0.0.1", port))
    made.listen(16)
    return made


def serve(listeners: list[socket.socket]) -> None:
    while True:
        for ready in select.select(listeners, [], [])[0]:
            accepted, _ = ready.accept()
            with accepted:
                if accepted.recv(10) == b"stop":
                    return
                accepted.send(str(os.getpid()).encode())


first = listen(0)
port = first.getsockname()[1]
groups = [[first, listen(port)], [listen(port), listen(port)]]
children = []
for group in groups:
    child = os.fork()
    if not child:
        wait_along()
        serve(group)
        sys.exit(0)
    children.append(child)
for group in groups:
    for listener in group:
        listener.close()
wait_for_go()
answers: set[int] = set()
for _ in range(200):
    with socket.create_connection(("127.0.0.1", port), timeout=30) as client:
        client.send(b"who")
        answers.add(int(client.recv(20)))
expect("who answers", answers, set(children))
for child in children:
    os.kill(child, 9)
    os.waitpid(child, 0)
finish()
