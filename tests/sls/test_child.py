"""A short-lived child: failures come back by their errno, findings as what they are, descriptors as ours."""

import errno
import os
import subprocess
import sys

import pytest

from sls.child import run_apart, told_by_child

pytestmark = pytest.mark.root
BESIDE_OTHERS = """
import os, threading
from sls.child import told_by_child

def compute():
    while not is_over.is_set():
        sum(range(1000))

is_over = threading.Event()
threads = [threading.Thread(target=compute) for _ in range(3)]
for one in threads:
    one.start()
print(len({told_by_child(os.getpid, int) for _ in range(100)}))
is_over.set()
"""


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


def test_threads_that_run_meanwhile_are_not_waited_for() -> None:
    """Whichever of them has the interpreter when the child is made: that has none of them."""
    said = subprocess.run(
        [sys.executable, "-c", BESIDE_OTHERS], capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert (said.stdout, said.stderr) == ("100\n", "")
