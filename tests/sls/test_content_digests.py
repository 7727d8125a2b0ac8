"""Pages of contents that differ from the last capture, against a dict of pages."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from sls.content_digests import ContentDigests
from sls.ranges import as_array, as_list, merged
from sls.syscalls import PAGE_BYTES

CAPTURES = st.lists(st.dictionaries(st.integers(0, 12), st.integers(0, 3)), min_size=1, max_size=5)


def packed(pages: dict[int, int]) -> tuple[list[tuple[int, int]], bytearray]:
    ranges = merged((page * PAGE_BYTES, (page + 1) * PAGE_BYTES) for page in pages)
    return ranges, bytearray(b"".join(bytes([pages[page]]) * PAGE_BYTES for page in sorted(pages)))


@given(CAPTURES)
def test_what_is_kept_is_what_has_changed(captures: list[dict[int, int]]) -> None:
    digests = ContentDigests()
    before: dict[int, int] = {}
    for pages in captures:
        ranges, data = packed(pages)
        found = as_list(digests.keep_changed(7, as_array(ranges), memoryview(data)))
        changed = {page: value for page, value in pages.items() if before.get(page) != value}
        expected, bytes_of_them = packed(changed)
        assert found == expected
        assert data[: len(bytes_of_them)] == bytes_of_them
        before = pages


def test_what_is_forgotten_counts_as_changed() -> None:
    digests = ContentDigests()
    ranges, data = packed({0: 1, 1: 2})
    assert len(digests.keep_changed(7, as_array(ranges), memoryview(data)))
    digests.forget()
    assert len(digests.keep_changed(7, as_array(ranges), memoryview(data)))
    digests.forget_gone({8})
    assert len(digests.keep_changed(7, as_array(ranges), memoryview(data)))
    digests.forget_gone({7})
    assert not len(digests.keep_changed(7, as_array(ranges), memoryview(data)))
    assert np.array_equal(digests.keep_changed(8, as_array(ranges), memoryview(data)), ranges)
