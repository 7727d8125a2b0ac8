"""seccomp(2)."""

import pytest

from tests.sls.conftest import Kept


@pytest.mark.parametrize("case", ["filters", "strict", "caged"])
def test_seccomp(kept: Kept, case: str) -> None:
    kept("seccomp.c", case)
