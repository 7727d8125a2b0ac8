"""Settings of partitions, in a store that may have no room for them."""

from typing import Any

import msgspec
import pytest

from slfs.registry import Owner, Registry
from slos.errors import StoreFullError
from slos.memstore import MemoryStore
from sls.requests import Backend, Settings
from tests.fakes.partition import FakePartition


class FullStore(MemoryStore):
    """Takes no properties any more."""

    def set_properties(self, oid: int, properties: bytes) -> None:
        raise StoreFullError("no room")


@pytest.mark.parametrize(
    "change", [{"period_ms": 100}, {"backend": Backend.MEMORY}], ids=["period", "backend"]
)
def test_a_setting_that_cannot_be_kept_does_not_hold(change: dict[str, Any]) -> None:
    store = FullStore()
    registry = Registry(store, FakePartition)
    entry = registry.create(1, Owner(0, 0))
    with pytest.raises(StoreFullError):
        entry.configure(msgspec.structs.replace(entry.settings, **change))
    assert entry.settings == Settings()
    assert isinstance(entry.partition, FakePartition)
    assert entry.partition.settings == Settings()
    assert entry.store is store
    registry.close()
