"""The Python interface, on fake partitions."""

import errno
import os

import pytest

import libsls
from libsls.foreground import shell_status
from tests.mounts import Mounted

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def test_a_partition_through_the_interface(mounted: Mounted, sleeper: int) -> None:
    assert libsls.find_mount() == mounted.place
    libsls.create(4)
    libsls.attach(4, sleeper)
    assert libsls.members(4) == [sleeper]
    assert libsls.checkpoint(4, name="one") == 1
    assert libsls.wait_durable(4) == 1
    assert libsls.restore(4) == libsls.Restored(1, (sleeper,))
    partition = libsls.Partition(4)
    assert partition.epochs() == [1]
    assert partition.generation(1)["processes"][0]["pid"] == sleeper
    assert [one.oid for one in libsls.partitions(mounted.place)] == [4]
    libsls.detach(4, sleeper)
    libsls.delete(4)
    assert not partition.exists()


def test_a_refusal_bears_errno_and_reason(mounted: Mounted) -> None:
    libsls.create(4)
    with pytest.raises(libsls.RefusedError) as caught:
        libsls.attach(4, 4194304)
    assert caught.value.errno == errno.ESRCH
    assert caught.value.strerror == "partition 4: pid 4194304 does not exist"


def test_a_member_can_checkpoint_itself(mounted: Mounted) -> None:
    libsls.create(4)
    pid = os.fork()
    if pid == 0:
        try:
            libsls.attach(4, os.getpid())
            libsls.checkpoint(4, wait=False)
        finally:
            os._exit(0)
    assert os.waitpid(pid, 0) == (pid, 0)


def test_a_wait_status_reads_as_in_a_shell() -> None:
    assert shell_status(3 << 8) == 3
    assert shell_status(9) == 137
