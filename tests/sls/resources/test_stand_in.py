"""Calls whose caller the kernel remembers, made by a child of that number and those ids."""

import os
import socket
import struct

import pytest

from sls.resources.stand_in import Identity, own_identity, run_as

pytestmark = pytest.mark.root


def free_number() -> int:
    pid = os.fork()
    if not pid:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_identity_and_shared_descriptors() -> None:
    identity = Identity(pid=free_number(), uid=1234, gid=567, groups=(8, 9))
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as client:
        listener.bind(f"\0sls-stand-in-{os.getpid()}")
        listener.listen()
        assert run_as(identity, lambda: client.connect(listener.getsockname()))
        with listener.accept()[0] as accepted:
            data = accepted.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
            assert struct.unpack("=iII", data) == (identity.pid, 1234, 567)
            groups = accepted.getsockopt(socket.SOL_SOCKET, 59, 8)
            assert struct.unpack("=II", groups) == (8, 9)


def test_a_number_in_use() -> None:
    assert not run_as(Identity(pid=os.getppid(), uid=1, gid=1), lambda: None)


def test_own_identity_needs_no_child() -> None:
    seen = []
    assert run_as(own_identity(), lambda: seen.append(os.getpid()))
    assert seen == [os.getpid()]
