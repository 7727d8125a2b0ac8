"""A short-lived child: failures come back by their errno, findings as what they are, descriptors as ours."""

import errno
import os

import pytest

from sls.child import run_apart, told_by_child

pytestmark = pytest.mark.root


def test_failure_keeps_its_errno() -> None:
    with pytest.raises(NotADirectoryError):
        run_apart(lambda: os.chdir("/dev/null"))
    with pytest.raises(OSError, match=os.strerror(errno.EFAULT)):
        run_apart(lambda: int("x"))
    assert os.getcwd() != "/dev/null"


def test_what_it_finds_and_opens_is_ours() -> None:
    fd, pid = told_by_child(
        lambda: (os.open("/dev/null", os.O_RDONLY), os.getpid()), tuple[int, int]
    )
    assert pid != os.getpid()
    assert os.readlink(f"/proc/self/fd/{fd}") == "/dev/null"
    os.close(fd)
