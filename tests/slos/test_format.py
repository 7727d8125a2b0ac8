"""The bytes: round trips, garbage, the numbers of docs/format.md, golden stores."""

import re
from pathlib import Path

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from slos import format as fmt
from slos.catalog import Event, SectionKind
from slos.errors import StoreFormatError
from slos.fsck import check_device
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "data" / "stores"
DOCUMENT = (ROOT / "docs" / "format.md").read_text()
quick = settings(deadline=None, derandomize=True, database=None, max_examples=100)


def table(heading: str) -> list[list[str]]:
    """Rows of the first table behind a heading or phrase."""
    lines = DOCUMENT[DOCUMENT.index(heading) :].splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|---"))
    rows = []
    for line in lines[start + 1 :]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def field_sizes(layout: str) -> list[int]:
    """Lengths of the fields of a struct format."""
    sizes = {"B": 1, "H": 2, "I": 4, "Q": 8}
    found = []
    for count, code in re.findall(r"(\d*)([sBHIQx])", layout):
        if code in "sx":
            found.append(int(count or 1))
        else:
            found += [sizes[code]] * int(count or 1)
    return found


def test_document_superblock_is_the_struct() -> None:
    rows = [(int(row[0]), int(row[1])) for row in table("## Superblock")]
    sizes = field_sizes(fmt.SUPERBLOCK.format)
    assert [size for _, size in rows] == sizes
    assert [offset for offset, _ in rows] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert fmt.SUPERBLOCK.size == fmt.SUPERBLOCK_BYTES == 512
    assert f"`{fmt.MAGIC.decode()}`" in DOCUMENT
    assert f"Format version {fmt.VERSION}." in DOCUMENT
    for number in (*fmt.SUPERBLOCK_OFFSETS, fmt.DATA_OFFSET):
        assert re.search(rf"^    {number} ", DOCUMENT, re.MULTILINE)
    assert f"{fmt.MIN_SEGMENT_BYTES} to {fmt.MAX_SEGMENT_BYTES}" in DOCUMENT


def test_document_header_is_the_struct() -> None:
    rows = [(int(row[0]), int(row[1])) for row in table("## Segments and records")]
    sizes = [*field_sizes(fmt.HEADER.format), fmt.HEADER_CHECKSUM.size]
    assert [size for _, size in rows] == sizes
    assert [offset for offset, _ in rows] == [sum(sizes[:i]) for i in range(len(sizes))]
    assert sum(sizes) == fmt.HEADER_BYTES == fmt.UNIT_BYTES == 64
    assert f"`{fmt.RECORD_MAGIC.decode()}`" in DOCUMENT
    assert f"at most {fmt.MAX_PAYLOAD_BYTES}" in DOCUMENT


def test_document_names_types_sections_and_events() -> None:
    types = {row[1]: int(row[0]) for row in table("| type | name |")}
    assert types == {kind.name: kind.value for kind in fmt.RecordType}
    kinds = {row[1]: int(row[0]) for row in table("| kind | section |")}
    assert kinds == {kind.name: kind.value for kind in SectionKind}
    events = DOCUMENT.split("**EVENT**")[1].split("\n\n")[0]
    tags = sorted(member.__struct_config__.tag for member in Event.__args__)
    assert tags == [int(tag) for tag in re.findall(r"[:;] (\d) \w", events)]
    assert f"up to {fmt.LEAF_ENTRIES} entries of {fmt.ENTRY_BYTES} bytes" in DOCUMENT
    assert f"up to {fmt.BLOCK_PAGES} pages" in DOCUMENT
    assert f"up to {fmt.SECTION_BYTES} bytes before lz4" in DOCUMENT
    assert fmt.SIZE_PAGE == 2**64 - 1


@quick
@given(
    st.builds(
        fmt.Superblock,
        uuid=st.binary(min_size=16, max_size=16),
        segment_bytes=st.sampled_from([fmt.MIN_SEGMENT_BYTES, fmt.MAX_SEGMENT_BYTES]),
        created_ns=st.integers(0, 2**64 - 1),
        sequence=st.integers(0, 2**64 - 1),
        mounts=st.integers(0, 2**32 - 1),
        clean=st.booleans(),
        roots=st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1)),
        log_offset=st.integers(128, 2**50).map(lambda unit: unit * 64),
        log_epoch=st.integers(0, 2**64 - 1),
        log_lsn=st.integers(0, 2**64 - 1),
        end_offset=st.integers(0, 2**64 - 1),
        version=st.just(1),
        incompatible=st.just(0),
        read_only_compatible=st.integers(0, 2**64 - 1),
    )
)
def test_superblock_round_trip(block: fmt.Superblock) -> None:
    assert fmt.decode_superblock(fmt.encode_superblock(block)) == block


@quick
@given(st.binary(max_size=600))
def test_superblock_garbage_is_refused(data: bytes) -> None:
    with pytest.raises(StoreFormatError):
        fmt.decode_superblock(data)


@quick
@given(st.sampled_from(fmt.RecordType), st.binary(max_size=300), st.integers(0, 2**64 - 1))
def test_record_round_trip(kind: fmt.RecordType, body: bytes, number: int) -> None:
    draft = fmt.Draft(kind, body, flags=1, count=7, raw=9, ident=number, context=number)
    head = draft.encode_header(number, number, 5)
    header = fmt.decode_header(head, 5)
    assert header is not None
    assert (header.type, header.stored, header.epoch) == (kind, len(body), number)
    assert header.record_bytes == draft.record_bytes
    assert header.record_bytes % fmt.UNIT_BYTES == 0
    assert fmt.decode_header(head, 6) is None, "another store's record"
    flipped = bytearray(head)
    flipped[number % 64] ^= 1
    assert fmt.decode_header(bytes(flipped), 5) is None


@quick
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=50), st.integers(1, 4))
def test_columns_round_trip(values: list[int], width: int) -> None:
    columns = [np.roll(np.array(values, np.uint64), shift) for shift in range(width)]
    raw = fmt.encode_columns(columns)
    decoded = fmt.decode_columns(raw, len(values), width)
    assert all((one == other).all() for one, other in zip(columns, decoded, strict=True))


@quick
@given(st.binary(max_size=400), st.integers(0, 3), st.integers(0, 70000), st.integers(0, 1 << 33))
def test_bodies_of_garbage_are_none(data: bytes, flags: int, count: int, raw: int) -> None:
    for kind in (fmt.RecordType.PAGES, fmt.RecordType.MOVED, fmt.RecordType.LEAF):
        header = fmt.Header(kind, flags, count, len(data), raw, 1, 1, 1, 1, 1)
        pages = fmt.decode_pages(header, memoryview(data))
        assert pages is None or len(pages) == header.raw
        assert kind is fmt.RecordType.LEAF or fmt.decode_leaf(header, memoryview(data)) is None
        fmt.decode_leaf(header, memoryview(data))


def golden_contents() -> dict[int, dict[int, bytes]]:
    """Generations of the golden stores: epoch → {object: bytes}."""
    numbers = b"".join(b"%08d" % number for number in range(4096))
    first = {1: numbers, 2**64 - 1: b"end"}
    second = {1: numbers[:PAGE_BYTES] + b"changed" + numbers[PAGE_BYTES + 7 :], 3: b"new" * 5000}
    return {1: first, 2: second, 3: {**second, 4: numbers}}


def make_golden(path: Path) -> None:
    """How a golden store is made; each version's was made once and is kept."""
    ObjectStore.create(
        path, segment_bytes=fmt.MIN_SEGMENT_BYTES, uuid=b"golden store 001", created_ns=1
    )
    with ObjectStore.open(path, background=False) as store:
        store.create_partition(7, b"golden")
        for epoch, contents in golden_contents().items():
            with store.begin(7) as transaction:
                for object_id, data in contents.items():
                    transaction.put(object_id, data)
                transaction.commit(name=f"generation {epoch}", note=b"note", wait=False)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.store")), ids=lambda path: path.stem)
def test_golden_store_stays_readable(path: Path) -> None:
    device = MemoryDevice(path.read_bytes())
    with ObjectStore.open_device(device, read_only=True) as store:
        assert store.partitions() == (7,)
        assert store.properties(7) == b"golden"
        for epoch, contents in golden_contents().items():
            info = store.generation(7, epoch)
            assert (info.name, info.note) == (f"generation {epoch}", b"note")
            assert {
                i.object_id: store.read(7, epoch, i.object_id) for i in store.objects(7, epoch)
            } == contents
    assert check_device(device).is_clean


def test_golden_store_of_this_version_is_there() -> None:
    blocks = [fmt.decode_superblock(path.read_bytes()[:512]) for path in GOLDEN.glob("*.store")]
    assert fmt.VERSION in {block.version for block in blocks}
    assert msgspec.structs.asdict(blocks[0])
