"""Holds one of much that a restore may miss: files, directories, ports, names, System V objects. All in the cwd.

Numbers that the driver needs go to the file `numbers`: of TCP and UDP, the System V key, its own pid.
"""

import ctypes
import mmap
import os
import socket

from tests.programs.protocol import expect, finish, wait_for_go

IPC_CREAT, IPC_EXCL, IPC_RMID, GETVAL, SETVAL = 0o1000, 0o2000, 0, 12, 16

libc = ctypes.CDLL(None)
with open("file", "wb") as made, open("mapped", "wb") as other_made:
    made.write(b"content")
    other_made.write(b"mapped")
file = os.open("file", os.O_RDWR)
os.lseek(file, 3, os.SEEK_SET)
with open("mapped", "rb") as other:
    view = mmap.mmap(other.fileno(), 6, mmap.MAP_PRIVATE, mmap.PROT_READ)
os.mkdir("held")
held = os.open("held", os.O_RDONLY | os.O_DIRECTORY)
os.mkfifo("fifo")
fifo = os.open("fifo", os.O_RDWR)
tcp = socket.create_server(("127.0.0.1", 0))
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
udp.bind(("127.0.0.1", 0))
key = 0x54500000 | os.getpid() & 0xFFFF
segment = libc.shmget(key, 4096, IPC_CREAT | IPC_EXCL | 0o600)
semaphores = libc.semget(key, 3, IPC_CREAT | IPC_EXCL | 0o600)
libc.semctl(semaphores, 1, SETVAL, 5)
with open("numbers", "w", encoding="ascii") as numbers:
    print(tcp.getsockname()[1], udp.getsockname()[1], key, os.getpid(), file=numbers)
os.mkdir("below")
os.chdir("below")
ports = tcp.getsockname()[1], udp.getsockname()[1]
wait_for_go()
expect("cwd", os.path.basename(os.getcwd()), "below")
expect("file", (os.lseek(file, 0, os.SEEK_CUR), os.read(file, 9)), (3, b"tent"))
expect("mapped", view[:], b"mapped")
expect("directory", os.listdir(held), [])
expect("fifo", os.write(fifo, b"x") and os.read(fifo, 10), b"x")
expect("ports", (tcp.getsockname()[1], udp.getsockname()[1]), ports)
expect("segment", libc.shmget(key, 0, 0), segment)
expect("semaphores", libc.semget(key, 0, 0), semaphores)
expect("value", libc.semctl(semaphores, 1, GETVAL), 5)
libc.shmctl(segment, IPC_RMID, 0)
libc.semctl(semaphores, 0, IPC_RMID, 0)
finish()
