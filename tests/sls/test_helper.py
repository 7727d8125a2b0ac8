"""Two things at the same time."""

import errno
import os
import threading

import numpy as np
import pytest

from sls.helper import CallThread, run_both
from sls.syscalls import CallTable


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor does one after the other")
def test_both_run_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=10)
    run_both(meeting.wait, meeting.wait)


def test_what_goes_wrong_in_either_is_raised_when_both_have_ended() -> None:
    done: list[int] = []

    def fail() -> None:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        run_both(fail, lambda: done.append(1))
    with pytest.raises(ConnectionError):
        run_both(lambda: done.append(2), fail)
    assert sorted(done) == [1, 2]


def test_a_call_thread_makes_one_table_after_the_other() -> None:
    read_end, write_end = os.pipe()
    data = np.frombuffer(b"abcdef", np.uint8)
    room = np.zeros(8, np.uint8)
    thread = CallThread()
    reading = CallTable([("read", (read_end, room.ctypes.data, 4)), ("close", (-1,))])
    writing = CallTable([("write", (write_end, data.ctypes.data, 4))])
    thread.start(reading)
    free = [thread.is_free]
    os.write(write_end, b"1234")  # what it waits for comes after `start`
    thread.wait()
    assert [*free, thread.is_free] == [False, True]
    assert reading.results.tolist() == [4, -errno.EBADF]
    assert room.tobytes() == b"1234\0\0\0\0"
    for _ in range(100):
        thread.start(writing)
        thread.wait()
        assert os.read(read_end, 8) == b"abcd"
    os.close(read_end)
    os.close(write_end)
