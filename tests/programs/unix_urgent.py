"""A pair of unix stream sockets with a byte out of band (unix(7), Linux 5.15) not read yet."""

import socket

from tests.programs.protocol import expect, finish, wait_for_go

sender, receiver = socket.socketpair()
sender.send(b"abc")
sender.send(b"x", socket.MSG_OOB)
sender.send(b"def")
wait_for_go()
receiver.settimeout(30)
expect("before the mark", receiver.recv(100), b"abc")
expect("urgent", receiver.recv(1, socket.MSG_OOB), b"x")
expect("behind the mark", receiver.recv(100), b"def")
finish()
