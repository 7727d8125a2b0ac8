"""What the kernel and this daemon agree on at the start of a mount (FUSE_INIT), beyond what libfuse 3.14 can say.

libfuse answers the kernel's first request with the flags that it knows. Here the request is handed to it over
a socket that stands in the place of the device; its answer goes on to the kernel with more flags set, and the
device comes into its place. Runs once, in the event loop, before the first other request.

FUSE_HANDLE_KILLPRIV_V2 (Linux 5.11): this daemon takes set-user-ID and capabilities from what is written to, so that
the kernel need not ask for `security.capability` before each write(2).
FUSE_DONT_MASK: a directory's default access list comes in the umask's place, acl(5).
"""

import os
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from struct import Struct
from typing import Final

import trio

DONT_MASK: Final = 1 << 6
HANDLE_KILLPRIV_V2: Final = 1 << 28
WANTED: Final = DONT_MASK | HANDLE_KILLPRIV_V2

MAX_BYTES: Final = 1 << 16
# length opcode unique node uid gid pid padding; major minor max_readahead flags (linux/fuse.h)
_REQUEST: Final = Struct("<IIQQIIIIIIII")
# length error unique; major minor max_readahead flags
_REPLY: Final = Struct("<IiQIIII")
_FLAGS_AT: Final = _REPLY.size - 4
_INIT: Final = 26


def devices() -> set[int]:
    """The descriptors of /dev/fuse that this process has; libfuse does not tell its own."""
    return {int(one.name) for one in Path("/proc/self/fd").iterdir() if _leads_to_fuse(one)}


def _leads_to_fuse(link: Path) -> bool:
    try:
        return os.readlink(link) == "/dev/fuse"
    except FileNotFoundError:  # that of the listing itself
        return False


async def agree(fd: int, serve: Callable[[], Awaitable[None]]) -> None:
    """Answer the kernel's first request. `serve` is libfuse's loop, which reads from `fd`."""
    real = os.dup(fd)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        request = os.read(real, MAX_BYTES)
        os.dup2(theirs.fileno(), fd, inheritable=False)
        ours.send(request)
        reply = await _answered(ours, fd, serve)
        os.dup2(real, fd, inheritable=False)
        os.write(fd, with_flags(request, reply))
    finally:
        ours.close()
        theirs.close()
        os.close(real)


async def _answered(
    ours: socket.socket, fd: int, serve: Callable[[], Awaitable[None]]
) -> bytearray:
    """Let libfuse's loop run until it has answered."""
    has_ended = trio.Event()

    async def serve_once() -> None:
        await serve()
        has_ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve_once)
        await trio.lowlevel.wait_readable(ours)
        while not has_ended.is_set():  # it waits for the next request, or is about to
            trio.lowlevel.notify_closing(fd)
            await trio.lowlevel.checkpoint()
    return bytearray(ours.recv(MAX_BYTES))


def with_flags(request: bytes, reply: bytearray) -> bytearray:
    """The reply with those of the WANTED flags that the kernel offers; unchanged where it is an error."""
    offered = _REQUEST.unpack_from(request)[-1]
    if len(reply) >= _REPLY.size and not _REPLY.unpack_from(reply)[1]:
        flags = int.from_bytes(reply[_FLAGS_AT : _FLAGS_AT + 4], "little") | offered & WANTED
        reply[_FLAGS_AT : _FLAGS_AT + 4] = flags.to_bytes(4, "little")
    return reply
