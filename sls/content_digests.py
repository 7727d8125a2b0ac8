"""Which pages of shared memory, memfds and deleted files differ from the last capture, by their digests.

Such memory can be written through any mapping of any process, by write(2) and by who is no member, so that no page
table tells all that was written. It is copied whole while everything stands still; what has not changed is dropped from
the copy afterwards, while the members run. Digests have 128 bits.
Knows no task. Single-threaded.
"""

import numpy as np
import xxhash

from sls.ranges import RangeArray, page_numbers, pages_as_ranges
from sls.syscalls import PAGE_BYTES


class ContentDigests:
    """The digests of each object's pages at the last capture."""

    def __init__(self) -> None:
        self._objects: dict[int, dict[int, bytes]] = {}  # object → page number → digest

    def keep_changed(self, object_id: int, ranges: RangeArray, data: memoryview) -> RangeArray:
        """Move what is new or changed to the front of `data`, which holds `ranges` packed; what that is.

        The next call for this object compares with what is here now.
        """
        before = self._objects.get(object_id, {})
        numbers = page_numbers(ranges).tolist()
        digests = [
            xxhash.xxh3_128_digest(data[at : at + PAGE_BYTES])
            for at in range(0, PAGE_BYTES * len(numbers), PAGE_BYTES)
        ]
        self._objects[object_id] = dict(zip(numbers, digests, strict=True))
        chosen = [
            place for place, number in enumerate(numbers) if before.get(number) != digests[place]
        ]
        if len(chosen) < len(numbers):
            pages = np.frombuffer(data, dtype=np.uint8).reshape(-1, PAGE_BYTES)
            pages[: len(chosen)] = pages[chosen]
        return pages_as_ranges(np.array([numbers[place] for place in chosen], dtype=np.uint64))

    def forget(self) -> None:
        """The next capture has every page."""
        self._objects.clear()

    def forget_gone(self, object_ids: set[int]) -> None:
        """Only these objects are there still."""
        for object_id in self._objects.keys() - object_ids:
            del self._objects[object_id]
