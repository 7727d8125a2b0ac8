"""F_SETOWN, F_SETSIG, O_ASYNC and leases: signals name the right descriptor."""

from tests.sls.conftest import Kept


def test_file_owners_and_leases(kept: Kept) -> None:
    assert not kept("file_lock.c", "owners").notes
