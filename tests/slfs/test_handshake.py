"""The first answer to the kernel: flags that libfuse does not know, where the kernel offers them."""

import os
import socket
from struct import pack

import pytest
import trio

from slfs.handshake import DONT_MASK, HANDLE_KILLPRIV_V2, agree, with_flags

OTHER = 1 << 3


def request(offered: int) -> bytes:
    return pack("<IIQQIIIIIIII48x", 104, 26, 2, 0, 0, 0, 1, 0, 7, 45, 1 << 17, offered)


def reply(flags: int, error: int = 0) -> bytes:
    return pack("<IiQIIII48x", 80, error, 2, 7, 31, 1 << 17, flags)


def test_offered_flags_are_added() -> None:
    every = OTHER | DONT_MASK | HANDLE_KILLPRIV_V2
    assert with_flags(request(every), bytearray(reply(OTHER))) == reply(every)
    assert with_flags(request(OTHER), bytearray(reply(OTHER))) == reply(OTHER)


def test_an_error_is_handed_on() -> None:
    refused = pack("<IiQ", 16, -71, 2)
    assert with_flags(request(DONT_MASK), bytearray(refused)) == refused
    assert with_flags(request(DONT_MASK), bytearray(reply(0, -71))) == reply(0, -71)


@pytest.mark.parametrize("turns", range(3))
def test_the_device_is_back_when_all_is_agreed(turns: int) -> None:
    """A server that waits for the next request, or is about to, ends and leaves the descriptor as it was."""
    kernel, device = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with kernel, device:
        kernel.send(request(DONT_MASK))

        async def serve() -> None:
            fd = device.fileno()
            try:
                await trio.lowlevel.wait_readable(fd)
                assert os.read(fd, 4096) == request(DONT_MASK)
                os.write(fd, reply(OTHER))
                for _ in range(turns):
                    await trio.lowlevel.checkpoint()
                await trio.lowlevel.wait_readable(fd)
            except trio.ClosedResourceError:
                return

        trio.run(agree, device.fileno(), serve)
        assert kernel.recv(4096) == reply(OTHER | DONT_MASK)
        kernel.send(b"next")
        assert device.recv(4096) == b"next"
