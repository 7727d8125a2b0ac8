"""Terminals of a devpts of its own (CASE[0]): as unshare(1) with mount(8) makes one, or bwrap(1), or in a third place.

There is one of the same number of the machine's, held since before; a child leads a session on the other. Numbers are
given from 0 on in each instance.
"""

import fcntl
import os
import pty
import signal
import struct
import sys
import termios

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

OUTER, INNER = (11, 22), (33, 44)
HELD = 30
SIZE = struct.Struct("=4H")
INSIDE = "inside" in CASE
PLACE = os.path.abspath("pts")


def resize(fd: int, size: tuple[int, int]) -> None:
    fcntl.ioctl(fd, termios.TIOCSWINSZ, SIZE.pack(*size, 0, 0))


def size_of(fd: int) -> tuple[int, ...]:
    return SIZE.unpack(fcntl.ioctl(fd, termios.TIOCGWINSZ, bytes(SIZE.size)))[:2]


def hold_the_machines() -> None:
    """Pairs of the numbers that are given first in the new one, as far as nobody else has them."""
    master, slave = pty.openpty()
    resize(master, OUTER)
    for number, fd in enumerate((master, slave)):
        os.dup2(fd, HELD + number, inheritable=True)
        os.close(fd)


def leave(*words: str) -> None:
    arguments = [sys.executable, "-S", "-P", *sys.argv, "inside"]
    os.execvp(words[0], [*words, *arguments])


def begin() -> None:
    hold_the_machines()
    if CASE[0] == "bwrap":
        here = os.getcwd()
        leave("bwrap", "--bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--chdir", here)
    where = PLACE if CASE[0] == "elsewhere" else "/dev/pts"
    os.makedirs(PLACE, exist_ok=True)
    options = "newinstance,ptmxmode=0666,mode=0620"
    command = f'mount -t devpts -o {options} none {where} && exec "$@"'
    leave("unshare", "--mount", "sh", "-c", command, "sh")


def open_pair() -> tuple[int, int]:
    if CASE[0] != "elsewhere":
        return pty.openpty()
    master = os.open(f"{PLACE}/ptmx", os.O_RDWR | os.O_NOCTTY)
    fcntl.ioctl(master, 0x40045431, struct.pack("=i", 0))  # TIOCSPTLCK
    number = struct.unpack("=i", fcntl.ioctl(master, 0x80045430, bytes(4)))[0]  # TIOCGPTN
    return master, os.open(f"{PLACE}/{number}", os.O_RDWR | os.O_NOCTTY)


def give_away(master: int) -> None:
    """To a process that is nobody's here."""
    if not os.fork():
        if not os.fork():
            wait_along()
        os._exit(0)
    os.wait()
    os.close(master)
    wait_for_go()
    finish()


def session(slave: int) -> None:
    """On the terminal that is its controlling one."""
    os.setsid()
    fcntl.ioctl(slave, termios.TIOCSCTTY, 0)
    current = os.open("/dev/tty", os.O_RDWR)
    signal.signal(signal.SIGINT, lambda *_: os.write(slave, b"interrupted\n"))
    os.write(slave, b"settled\n")
    wait_along()
    expect("/dev/tty", size_of(current), INNER)
    expect("session", os.tcgetpgrp(slave), os.getpid())
    if CASE[0] != "elsewhere":
        expect("name", os.ttyname(slave), NAMES[1])
    expect("line", os.read(slave, 100), b"input\n")
    os.write(slave, b"read\n")
    expect("the machine's", size_of(HELD), OUTER)
    os._exit(0)


if not INSIDE:
    begin()
master, slave = open_pair()
resize(master, INNER)
if CASE[0] == "outside":
    give_away(master)
NAMES = [os.readlink(f"/proc/self/fd/{fd}") for fd in (master, slave)]
os.fchmod(slave, 0o604)
settings = termios.tcgetattr(slave)
settings[3] &= ~termios.ECHO
termios.tcsetattr(slave, termios.TCSANOW, settings)
outer = [os.readlink(f"/proc/self/fd/{HELD + number}") for number in (0, 1)]
child = os.fork()
if not child:
    session(slave)
expect("settled", os.read(master, 100), b"settled\r\n")
os.write(slave, b"waits\n")
wait_for_go()
expect("names", [os.readlink(f"/proc/self/fd/{fd}") for fd in (master, slave)], NAMES)
expect(
    "sizes", [size_of(fd) for fd in (master, slave, HELD, HELD + 1)], [INNER, INNER, OUTER, OUTER]
)
expect("mode", os.fstat(slave).st_mode & 0o777, 0o604)
expect("settings", termios.tcgetattr(slave)[3] & termios.ECHO, 0)
expect("same", os.fstat(slave).st_ino, os.stat(NAMES[1]).st_ino)
expect("waiting", os.read(master, 100), b"waits\r\n")
os.write(master, b"input\n")
expect("child's", os.read(master, 100), b"read\r\n")
expect("child", os.waitpid(child, 0)[1], 0)
expect("the machine's names", [os.readlink(f"/proc/self/fd/{HELD + one}") for one in (0, 1)], outer)
finish()
