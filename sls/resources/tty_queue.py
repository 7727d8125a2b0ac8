"""Bytes that wait in a pty(7): input that the slave has not read, output that the master has not read.

Not a resource of its own: part of a master's record. A terminal shows nothing without giving it away, so, while every
member stands still, a process of its own takes the bytes and puts them back; it goes on when the tracer is killed.
Input goes in again by TIOCSTI, with settings under which each byte stands for itself; a line's end is kept.
"""

import fcntl
import os
import select
import signal
import struct
import termios
import time
from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from sls.child import run_apart
from sls.resources.base import Record

TCGETS2: Final = 0x802C542A  # asm-generic/ioctls.h
TCSETS2: Final = 0x402C542B
_TERMIOS2 = struct.Struct("=4IB19sII")
TERMIOS2_BYTES: Final = _TERMIOS2.size
_DISABLED: Final = 0
_INPUT_BYTES: Final = 4095  # N_TTY_BUF_SIZE less one
_PIECE_BYTES: Final = 1 << 16
_SETTLE_S: Final = 1.0
_NEWLINE: Final = 10


class TerminalQueue(Record, frozen=True):
    """`lines`: what each read(2) would return, an empty one for an end of file; `rest`: behind the last line's end."""

    lines: tuple[bytes, ...] = ()
    rest: bytes = b""
    output: bytes = b""


EMPTY: Final = TerminalQueue()


def waiting_bytes(fd: int) -> int:
    """FIONREAD: bytes that a read(2) could take; of a line that is not complete none."""
    return int(struct.unpack("=i", fcntl.ioctl(fd, termios.FIONREAD, bytes(4)))[0])


def can_be_put_back(slave: int) -> bool:
    """Whether output may be written at all: it may not while it is stopped (^S)."""
    poller = select.poll()
    poller.register(slave, select.POLLOUT)
    return bool(poller.poll(0))


def look(master: int, slave: int) -> TerminalQueue:
    """What waits, taken out and put back. `slave` must not block."""
    place = os.memfd_create("sls-terminal", os.MFD_CLOEXEC)

    def work() -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        settings = fcntl.ioctl(slave, TCGETS2, bytes(TERMIOS2_BYTES))
        found = _taken(master, slave, settings)
        put(master, slave, settings, found)
        fcntl.ioctl(slave, TCSETS2, settings)
        os.write(place, msgspec.msgpack.encode(found))
        _wait_settled(master, len(found.output))

    try:
        run_apart(work)
        return msgspec.msgpack.decode(
            os.pread(place, os.fstat(place).st_size, 0), type=TerminalQueue
        )
    finally:
        os.close(place)


def put(master: int, slave: int, settings: bytes, queue: TerminalQueue) -> None:
    """Queue everything again. The terminal's settings are to be set afterwards."""
    ends = _line_ends(settings)
    data = b"".join(queue.lines) + queue.rest
    mark = next(byte for byte in range(1, 256) if byte not in data and byte not in ends)
    fcntl.ioctl(slave, TCSETS2, _plain(settings, mark))
    typed = bytearray()
    for line in queue.lines:
        typed += line
        if _is_canonical(settings) and line[-1:] not in {bytes([end]) for end in ends}:
            typed.append(mark)
    typed += queue.rest
    for byte in typed[:_INPUT_BYTES]:
        fcntl.ioctl(slave, termios.TIOCSTI, bytes([byte]))
    if typed[_INPUT_BYTES:]:  # it waited outside of the line discipline, as it will again
        os.write(master, typed[_INPUT_BYTES:])
    rest = queue.output
    while rest and can_be_put_back(slave):
        rest = rest[os.write(slave, rest) :]


def _taken(master: int, slave: int, settings: bytes) -> TerminalQueue:
    is_canonical = _is_canonical(settings)
    lines = tuple(_pieces(slave, ends_empty=not is_canonical))
    if not is_canonical:
        return TerminalQueue(rest=b"".join(lines), output=_output(master))
    rest = b""
    if lines:  # what is behind them is no line yet: it can be read where there are none
        fcntl.ioctl(slave, TCSETS2, _plain(settings, _DISABLED, is_canonical=False))
        rest = b"".join(_pieces(slave, ends_empty=True))
    return TerminalQueue(lines=lines, rest=rest, output=_output(master))


def _output(master: int) -> bytes:
    """What waits at the master, whose descriptor is the program's own and may block: no more than is there is read."""
    found = b""
    while waiting := waiting_bytes(master):
        found += os.read(master, waiting)
    return found


def _pieces(slave: int, *, ends_empty: bool = False) -> Iterator[bytes]:
    """What read(2) returns until nothing waits."""
    while True:
        try:
            piece = os.read(slave, _PIECE_BYTES)
        except BlockingIOError:
            return
        if not piece and ends_empty:
            return
        yield piece


def _is_canonical(settings: bytes) -> bool:
    local: int = _TERMIOS2.unpack(settings)[3]
    return bool(local & termios.ICANON)


def _line_ends(settings: bytes) -> Sequence[int]:
    characters: bytes = _TERMIOS2.unpack(settings)[5]
    extra = (characters[termios.VEOL], characters[termios.VEOL2])
    return [_NEWLINE, *(byte for byte in extra if byte != _DISABLED)]


def _plain(settings: bytes, mark: int, *, is_canonical: bool | None = None) -> bytes:
    """Settings under which input is taken as it comes: `mark` ends a line without being part of it.

    IXON stays, for turning it off would let stopped output go; its characters are disabled.
    """
    incoming, _, control, local, discipline, characters, *speeds = _TERMIOS2.unpack(settings)
    kept = bytearray(len(characters))
    if is_canonical is None:
        is_canonical = bool(local & termios.ICANON)
    if is_canonical:
        kept[termios.VEOF] = mark
        for place in (termios.VEOL, termios.VEOL2):
            kept[place] = characters[place]
    local = termios.ICANON if is_canonical else 0
    return _TERMIOS2.pack(
        incoming & termios.IXON, 0, control, local, discipline, bytes(kept), *speeds
    )


def _wait_settled(master: int, wanted: int) -> None:
    """Output arrives by a worker of the kernel (tty_flip_buffer_push): wait for as much as one read can take."""
    deadline = time.monotonic() + _SETTLE_S
    while waiting_bytes(master) < min(wanted, _INPUT_BYTES) and time.monotonic() < deadline:
        time.sleep(0.0001)
