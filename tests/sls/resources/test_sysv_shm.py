"""System V shared memory: ids, keys, counts, bytes."""

from tests.sls.conftest import Kept


def test_216_sysv_shm(kept: Kept) -> None:
    assert not kept("sysv_shm.c").notes
