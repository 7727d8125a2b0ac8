"""memfd_create(2): bytes, holes, seals, name; descriptor and mappings are of one object."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("seals", ["plain", "sealed", "future"])
def test_memfd(kept: Kept, seals: str) -> None:
    kept("memfd.c", seals)
