"""Many records looked at together: right pages copied, whatever is wrong left to the slow path."""

import random
from pathlib import Path

import numpy as np
import pytest

from slos.bulk import Wanted, copy_pages
from slos.codec import Body, compress, compress_blocks, decompress_blocks
from slos.format import encode_pages
from slos.ingest import page_hashes
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES
from tests.slos.fakes.device import MemoryDevice
from tests.slos.fakes.workload import new_image

SEED = 7


def page(chance: random.Random) -> bytes:
    return chance.randbytes(PAGE_BYTES // 4) * 4


def record(pages: list[bytes], block: int, body: Body | None = None) -> bytes:
    """A record of these pages; with another body its checksum is right and its contents are not."""
    data = b"".join(pages)
    hashes = page_hashes(memoryview(data), len(pages)).tobytes()
    draft = encode_pages([body or compress(data)], hashes, block)[0]
    whole = draft.encode_header(1, 1, SEED) + b"".join(draft.parts)
    return whole + bytes(draft.record_bytes - len(whole))


def copy_all(records: list[bytes], counts: list[int]) -> tuple[list[bool], bytes]:
    """(which records were done, the pages of all of them in a row)."""
    number = np.array(counts)
    starts = np.cumsum([0, *map(len, records[:-1])])
    slots = np.concatenate([np.arange(count) for count in counts])
    bases = np.arange(1, len(records) + 1) * 16
    wanted = Wanted(starts, number, number - 1, bases, slots, np.arange(len(slots)))
    out = np.zeros((len(slots), PAGE_BYTES), np.uint8)
    done = copy_pages(memoryview(b"".join(records)), SEED, wanted, out)
    return done.tolist(), out.tobytes()


def test_records_of_all_kinds_side_by_side() -> None:
    chance = random.Random(1)
    counts = [16, 1, 7, 16, 3] * 9
    blocks = [
        [page(chance) if number % 2 else chance.randbytes(PAGE_BYTES) for _ in range(count)]
        for number, count in enumerate(counts)
    ]
    records = [record(pages, number) for number, pages in enumerate(blocks, 1)]
    done, found = copy_all(records, counts)
    assert all(done)
    assert found == b"".join(b"".join(pages) for pages in blocks)


def test_bodies_of_wrong_lengths_that_make_up_for_one_another() -> None:
    """Their checksums are right and their sum too; no page may come out at another's place."""
    chance = random.Random(2)
    pages = [page(chance) for _ in range(16)]
    records = [
        record(pages[:8], 1, compress(b"".join([*pages[:8], pages[3]]))),
        record(pages[8:], 2, compress(b"".join(pages[9:]))),
    ]
    assert copy_all(records, [8, 8])[0] == [False, False]
    assert copy_all([record(pages[:8], 1), record(pages[8:], 2)], [8, 8])[0] == [True, True]


@pytest.mark.parametrize("at", [0, 5, 60, 64, 100, 64 + 8 * 8 + 5])
def test_a_flip_spoils_its_record_only(at: int) -> None:
    chance = random.Random(3)
    blocks = [[page(chance) for _ in range(8)] for _ in range(3)]
    records = [record(pages, number) for number, pages in enumerate(blocks, 1)]
    damaged = bytearray(records[1])
    damaged[at] ^= 1
    done, found = copy_all([records[0], bytes(damaged), records[2]], [8, 8, 8])
    assert done == [True, False, True]
    step = 8 * PAGE_BYTES
    assert found[:step] == b"".join(blocks[0])
    assert found[2 * step :] == b"".join(blocks[2])


def test_decompress_blocks_tells_what_holds_less_or_more() -> None:
    data = b"".join(page(random.Random(4)) for _ in range(40))
    bodies = [memoryview(body) for body, _ in compress_blocks(memoryview(data))]
    assert bytes(decompress_blocks(bodies, len(data)) or b"") == data
    assert decompress_blocks(bodies, len(data) - PAGE_BYTES) is None
    assert decompress_blocks(bodies, len(data) + PAGE_BYTES) is None
    assert decompress_blocks(bodies[:-1], len(data)) is None
    assert decompress_blocks([memoryview(b"\xff" * 99)], PAGE_BYTES) is None
    too_long = compress(bytes(2 * 65536))[0]
    assert decompress_blocks([memoryview(too_long)], 2 * 65536) is None


def test_a_sparse_read_from_the_disk_is_announced(tmp_path: Path) -> None:
    """Where half of what lies in a row is not wanted, and the page cache has it not."""

    class ColdDevice(MemoryDevice):
        is_there = False
        announced = 0

        def is_cached(self, offset: int) -> bool:
            return self.is_there

        def expect(self, offset: int, length: int) -> None:
            self.announced += 1

    chance = random.Random(91)
    pages = 5000
    data = bytearray(chance.randbytes(pages * PAGE_BYTES))
    device = ColdDevice(new_image(tmp_path, segment_bytes=4 << 20))
    with ObjectStore.open_device(device, background=False) as store:
        store.create_partition(1)
        with store.begin(1) as transaction:
            transaction.write(1, 0, data)
            transaction.commit()
        assert store.read(1, 1, 1) == data
        assert device.announced == 0
        numbers = sorted(chance.sample(range(pages), pages // 2))
        new = chance.randbytes(len(numbers) * PAGE_BYTES)
        with store.begin(1, parent=1) as transaction:
            transaction.write_pages(1, numbers, new)
            transaction.commit()
        for index, number in enumerate(numbers):
            part = new[index * PAGE_BYTES : (index + 1) * PAGE_BYTES]
            data[number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = part
        assert store.read(1, 2, 1) == data
        assert device.announced > 5
        before, device.is_there = device.announced, True
        assert store.read(1, 2, 1) == data
        assert device.announced == before
