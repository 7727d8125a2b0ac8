"""Inode numbers: one a file for as long as the kernel remembers it."""

from collections.abc import Callable, Iterator

import pytest

from slfs.access import Caller
from slfs.generations import GenerationsDirectory
from slfs.inodes import Directory, InodeTable, Node, RootDirectory, TextHandle
from slfs.registry import Owner, Registry
from slfs.top import TOP_FILES
from slfs.watch import Watch
from slos.memstore import MemoryStore
from tests.fakes.partition import FakePartition


@pytest.fixture
def registry() -> Iterator[Registry]:
    registry = Registry(MemoryStore(), FakePartition)
    yield registry
    assert registry.close() == []


@pytest.fixture
def root(registry: Registry) -> RootDirectory:
    return RootDirectory(registry, TOP_FILES, {"generations": GenerationsDirectory})


Walk = Callable[..., Node]


@pytest.fixture
def walk(root: RootDirectory) -> Walk:
    """`walk("partitions", "1")`: the node there."""

    def step(*names: str) -> Node:
        node: Node = root
        for name in names:
            assert isinstance(node, Directory)
            found = node.lookup(name.encode())
            assert found is not None, name
            node = found
        return node

    return step


def test_a_node_keeps_its_number_while_remembered(registry: Registry, walk: Walk) -> None:
    registry.create(1, Owner(0, 0))
    table = InodeTable(walk())
    first = table.remember(walk("partitions", "1", "attach"))
    assert table.remember(walk("partitions", "1", "attach")) == first
    assert table.remember(walk("partitions", "1", "log")) != first
    table.forget(first, 1)
    assert table.node(first).identity == walk("partitions", "1", "attach").identity
    table.forget(first, 1)
    with pytest.raises(KeyError):
        table.node(first)
    assert len(table) == 2
    table.forget(InodeTable.ROOT, 1)
    assert table.node(InodeTable.ROOT) is not None


def test_a_partition_made_anew_is_another_file(registry: Registry, walk: Walk) -> None:
    registry.create(1, Owner(0, 0))
    before = walk("partitions", "1")
    partitions = walk("partitions")
    assert isinstance(partitions, Directory)
    partitions.remove_directory(b"1", Caller(0, 0, 1))
    registry.create(1, Owner(5, 6))
    after = walk("partitions", "1")
    assert before.identity != after.identity
    assert after.attributes().owner == Owner(5, 6)
    assert isinstance(before, Directory)
    assert before.lookup(b"attach") is None


def test_one_pass_over_a_text_sees_one_state() -> None:
    texts = iter([b"abcdef", b"xyz"])
    watch = Watch()
    handle = TextHandle(lambda: next(texts), watch)
    assert handle.is_readable()
    assert handle.read(0, 3) + handle.read(3, 10) == b"abcdef"
    assert not handle.is_readable()
    watch.advance()
    assert handle.is_readable()
    assert handle.read(0, 10) == b"xyz"


def test_the_metrics_are_openmetrics(registry: Registry, walk: Walk) -> None:
    registry.create(7, Owner(0, 0))
    text = TOP_FILES["metrics"](registry).decode()
    assert text.endswith("# EOF\n")
    lines = text.splitlines()[:-1]
    kinds = {line.split()[2]: line.split()[3] for line in lines if line.startswith("# TYPE")}
    for line in lines:
        if not line.startswith("#"):
            name, value = line.partition("{")[0].split()[0], line.split()[-1]
            family = name.removesuffix("_total")
            assert name.endswith("_total") == (kinds[family] == "counter")
            float(value)
    assert 'slfs_partition_newest_epoch{oid="7"} 0' in lines
