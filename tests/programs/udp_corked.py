"""A UDP socket with a datagram that grows (UDP_CORK): it is sent as a whole after go."""

import socket

from tests.programs.protocol import expect, finish, wait_for_go

UDP_CORK = 1
receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
receiver.bind(("127.0.0.1", 0))
receiver.settimeout(30)
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.connect(receiver.getsockname())
sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 1)
sender.send(b"one ")
wait_for_go()
sender.send(b"datagram")
sender.setsockopt(socket.IPPROTO_UDP, UDP_CORK, 0)
expect("datagram", receiver.recv(100), b"one datagram")
finish()
