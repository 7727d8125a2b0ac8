"""Descriptors of the restorer's, handed to processes that are there already (SCM_RIGHTS of unix(7)).

They take nothing by themselves (pidfd_getfd(2)): who is in a user namespace below ours may not. Single-threaded.
"""

import array
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Final

from sls.remote import Call, In, Out, Reply, call

_MOST: Final = 200  # of SCM_MAX_FD, 253
_MSG_CMSG_CLOEXEC: Final = 0x40000000
_IOVEC: Final = struct.Struct("=QQ")
_MSGHDR: Final = struct.Struct("=QIxxxxQQQQixxxx")
_IOV_AT, _CONTROL_AT = 16, 32
_CMSG_HEAD_BYTES: Final = 16
_DESCRIPTOR_BYTES: Final = 4


class Handover:
    """A pair of sockets. `inherit`: lets processes inherit a descriptor, and tells its number there."""

    def __init__(self, inherit: Callable[[int], int]) -> None:
        self._here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with there:
            self._there = inherit(there.fileno())

    def give(
        self, descriptors: Sequence[int], run: Callable[[Sequence[Call]], list[Reply]]
    ) -> list[int]:
        """What these are called in the process that `run` makes calls in: close-on-exec, at any numbers."""
        found: list[int] = []
        for start in range(0, len(descriptors), _MOST):
            some = descriptors[start : start + _MOST]
            socket.send_fds(self._here, [b"."], some)
            (reply,) = run([self._receive(len(some))])
            reply.check()
            found += _numbers(reply.outputs[1])
        return found

    def _receive(self, count: int) -> Call:
        size = _CMSG_HEAD_BYTES + -(-count * _DESCRIPTOR_BYTES // 8) * 8
        piece = In(_IOVEC.pack(0, 1), ((0, Out(1)),))
        head = _MSGHDR.pack(0, 0, 0, 1, 0, size, 0)
        message = In(head, ((_IOV_AT, piece), (_CONTROL_AT, Out(size))))
        return call("recvmsg", self._there, message, _MSG_CMSG_CLOEXEC | socket.MSG_DONTWAIT)

    def close(self) -> None:
        self._here.close()


def _numbers(control: bytes) -> Iterator[int]:
    """Of the one control message."""
    length = int.from_bytes(control[:8], "little")
    yield from array.array("i", control[_CMSG_HEAD_BYTES:length])
