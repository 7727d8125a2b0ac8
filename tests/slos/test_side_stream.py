"""A partition's side stream: generations of its own, not listed among the partitions."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from slos.errors import InvalidRequestError
from slos.memstore import MemoryStore
from slos.objstore import ObjectStore
from slos.store import SIDE_STREAM, Store


@pytest.fixture(params=["slos", "memory"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "memory":
        yield MemoryStore()
        return
    ObjectStore.create(tmp_path / "a.slos")
    with ObjectStore.open(tmp_path / "a.slos") as opened:
        yield opened


def test_it_is_not_listed_and_has_epochs_of_its_own(store: Store) -> None:
    store.create_partition(7)
    store.create_partition(7 | SIDE_STREAM)
    with store.begin(7 | SIDE_STREAM) as transaction:
        transaction.put(1, b"beside")
        transaction.commit()
    assert store.partitions() == (7,)
    assert store.newest(7) is None
    assert store.read(7 | SIDE_STREAM, 1, 1) == b"beside"
    store.delete_partition(7 | SIDE_STREAM)
    assert store.partitions() == (7,)


@pytest.mark.parametrize("oid", [SIDE_STREAM, SIDE_STREAM | 65537], ids=["zero", "large"])
def test_its_number_is_a_partitions(store: Store, oid: int) -> None:
    with pytest.raises(InvalidRequestError):
        store.create_partition(oid)
