"""Many system calls of our own in one go (`sls.syscalls.CallTable`)."""

import errno
import os

import numpy as np

from sls.syscalls import CallTable


def test_calls_are_made_in_order_whatever_fails() -> None:
    read_end, write_end = os.pipe()
    data = np.frombuffer(b"abcdef", np.uint8)
    room = np.zeros(8, np.uint8)
    where, there = data.ctypes.data, room.ctypes.data
    table = CallTable(
        [
            ("write", (write_end, where, 4)),
            ("read", (-1, there, 4)),
            ("read", (read_end, there, 2)),
            ("read", (read_end, there + 4, 2)),
            ("getpid", ()),
        ]
    )
    table.make()
    assert table.results.tolist() == [4, -errno.EBADF, 2, 2, os.getpid()]
    assert room.tobytes() == b"ab\0\0cd\0\0"
    table.arguments[0] = (write_end, where + 4, 2, 0, 0, 0)
    table.arguments[2:4, 2] = 1
    table.make()
    assert table.results.tolist() == [2, -errno.EBADF, 1, 1, os.getpid()]
    assert room.tobytes() == b"eb\0\0fd\0\0"
    os.close(read_end)
    os.close(write_end)


def test_six_arguments_arrive() -> None:
    table = CallTable([("mmap", (0, 4096, 3, 0x22, -1, 0))])
    table.make()
    place = int(table.results[0])
    assert place > 0
    unmap = CallTable([("munmap", (place, 4096)), ("munmap", (1, 4096))])
    unmap.make()
    assert unmap.results.tolist() == [0, -errno.EINVAL]


def test_none_at_all() -> None:
    table = CallTable([])
    table.make()
    assert len(table.results) == 0
