"""Both ends of a connection under test: a known sequence of bytes each way, a last piece behind it, then the end."""

import os
import select
import socket

_PERIOD = bytes(index * 11 & 0xFF for index in range(256))


def pattern(start: int, count: int) -> bytes:
    """Bytes `start` and on of the sequence."""
    return (_PERIOD * (count // 256 + 2))[start % 256 :][:count]


def fill(end: socket.socket, written: int) -> int:
    """Write until no more goes in; how much is written then."""
    end.setblocking(False)
    try:
        while True:
            written += end.send(pattern(written, 1 << 16))
    except BlockingIOError:
        return written


def finish_exchange(end: socket.socket, written: int, more: int, *, is_shut: bool) -> int:
    """Write `more` bytes and the end, unless that `is_shut`; read to the other's end. How much was read, all right."""
    end.setblocking(False)
    total = written if is_shut else written + more
    read = 0
    poller = select.poll()
    poller.register(end, select.POLLIN | (0 if is_shut else select.POLLOUT))
    is_open = True
    while is_open or not is_shut:
        ready = poller.poll(40_000)
        if not ready:
            raise TimeoutError(f"{read} bytes read, {total - written} left to write")
        events = ready[0][1]
        if events & select.POLLOUT and not is_shut:
            if written < total:
                written += end.send(pattern(written, min(total - written, 1 << 16)))
            else:
                end.shutdown(socket.SHUT_WR)
                is_shut = True
                poller.modify(end, select.POLLIN if is_open else 0)
        if events & ~select.POLLOUT and is_open:
            data = end.recv(1 << 16)
            if data != pattern(read, len(data)):
                raise ValueError(f"wrong bytes behind {read}")
            read += len(data)
            is_open = bool(data)
            if not is_open:
                poller.modify(end, 0 if is_shut else select.POLLOUT)
    return read


def tell(path: str, text: str) -> None:
    """A file that is there whole or not at all."""
    with open(f"{path}.new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(f"{path}.new", path)
