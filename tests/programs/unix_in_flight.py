"""Descriptors in flight: a file with its offset, ends of a pipe, a pair, a pair in a pair; one is kept as well."""

import os
import socket

from tests.programs.protocol import expect, finish, wait_for_go

left, right = socket.socketpair()
with open("data", "wb") as file:
    file.write(b"0123456789")
data = os.open("data", os.O_RDONLY)
os.read(data, 4)
read_end, write_end = os.pipe()
os.write(write_end, b"in the pipe")
near, far = socket.socketpair()
near.send(b"to the far end")
inner, outer = socket.socketpair()
socket.send_fds(inner, [b"nested"], [data])
kept = os.eventfd(42)
socket.send_fds(left, [b"first"], [data, read_end])
left.send(b"between")
socket.send_fds(left, [b"second"], [far.fileno(), outer.fileno(), kept])
for fd in (data, read_end):
    os.close(fd)
for end in (far, outer, inner):
    end.close()
wait_for_go()
words, (data, read_end), _, _ = socket.recv_fds(right, 100, 10)
expect("first", words[:5], b"first")
rest = words[5:] or right.recv(7)
expect("between", rest, b"between")
words, (far_fd, outer_fd, again), _, _ = socket.recv_fds(right, 100, 10)
expect("second", words, b"second")
expect("offset", os.read(data, 100), b"456789")
expect("pipe", os.read(read_end, 100), b"in the pipe")
far, outer = socket.socket(fileno=far_fd), socket.socket(fileno=outer_fd)
expect("pair", far.recv(100), b"to the far end")
far.send(b"back")
expect("back", near.recv(100), b"back")
words, (nested,), _, _ = socket.recv_fds(outer, 100, 10)
expect("nested", words, b"nested")
expect("same description", os.lseek(nested, 0, os.SEEK_CUR), 10)
os.eventfd_write(kept, 1)
expect("eventfd", os.eventfd_read(again), 43)
finish()
