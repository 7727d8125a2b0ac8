"""Blocks read ahead: what is damaged there is an error for who reads it, and for nobody before."""

import random
import threading
from pathlib import Path

import pytest

from slfs.files.base import FILE_OBJECTS, Base, MissingBlockError
from slfs.files.blocks import BLOCK_BYTES, BLOCK_PAGES
from slfs.files.loader import WINDOW, Loader
from slos.errors import CorruptObjectError
from slos.objstore import ObjectStore
from slos.store import PAGE_BYTES, SIDE_STREAM

INO = 9
BLOCKS = 2 * WINDOW
DAMAGED = 6


def damaged_store(path: Path) -> bytes:
    """A file's blocks in a store, a byte of one of them flipped; its bytes as they were."""
    data = random.Random(81).randbytes(BLOCKS * BLOCK_BYTES)
    ObjectStore.create(path)
    with ObjectStore.open(path, background=False) as store:
        store.create_partition(1 | SIDE_STREAM)
        with store.begin(1 | SIDE_STREAM) as transaction:
            transaction.put(FILE_OBJECTS + INO, data)
            transaction.commit()
        core = store.core
        generation = core.catalog.generation(1 | SIDE_STREAM, 1)
        page = DAMAGED * BLOCK_PAGES + 5
        _, ids = core.pages_of(generation, FILE_OBJECTS + INO, page, page + 1)
        place = core.locate(ids)
        at = int(place.offsets[0]) + int(place.sizes[0]) // 2
    with path.open("r+b") as file:
        file.seek(at)
        (byte,) = file.read(1)
        file.seek(at)
        file.write(bytes([byte ^ 1]))
    return data


def test_damage_ahead_is_nobodys_error_before_it(tmp_path: Path) -> None:
    path = tmp_path / "damaged.store"
    data = damaged_store(path)
    loader, lock = Loader(), threading.RLock()
    with ObjectStore.open(path, read_only=True) as store:
        base = Base(store, 1, 1)

        def read(number: int) -> bytes | bytearray:
            """As a read of the mount does: try, load what is missing, try again."""
            first = number * BLOCK_PAGES
            while True:
                try:
                    return base.pages(INO, first, BLOCK_PAGES, only_here=True)
                except MissingBlockError as missing:
                    loader.load(base, lock, missing.object_id, missing.number).result(60)

        # The first pages of a file are kept elsewhere: reads begin with the second block.
        base.pages(INO, BLOCK_PAGES - 1, 1)
        for number in range(1, BLOCKS):
            want = data[number * BLOCK_BYTES : (number + 1) * BLOCK_BYTES]
            if number == DAMAGED:
                with pytest.raises(CorruptObjectError) as caught:
                    read(number)
                assert caught.value.offset // PAGE_BYTES >= DAMAGED * BLOCK_PAGES
                assert caught.value.offset // PAGE_BYTES < (DAMAGED + 1) * BLOCK_PAGES
            else:
                assert read(number) == want
    loader.stop()
