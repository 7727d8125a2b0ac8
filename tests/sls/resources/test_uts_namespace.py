"""UTS namespaces: of a process, of one thread, shared by a parent and a child."""

from tests.sls.conftest import Kept


def test_host_names_of_its_own(kept: Kept) -> None:
    assert not kept("uts_namespace.c").notes
