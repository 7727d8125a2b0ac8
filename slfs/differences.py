"""`diff`: two generations compared, as text.

    generations/<n>/diff       against its parent, or the newest older one that is still there
    generations/<a>..<b>       any two; found by its name, never listed

Pages are compared byte by byte where the store says that they may differ. Texts are kept for the pairs asked for last:
one process-wide cache, guarded by a lock. Slow: call from worker threads.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Final

import numpy as np

from slfs.file_differences import file_count, file_differences
from slfs.journal import format_time
from slfs.processes import GenerationObjects, images, open_space
from slfs.registry import Entry
from slos.store import GenerationInfo
from sls.address_space import Range, UnmappedError
from sls.diff import differences
from sls.filetree import files_epoch
from sls.image import ProcessImage
from sls.ranges import merged
from sls.syscalls import PAGE_BYTES

_PIECE_BYTES: Final = 1 << 20
_KEPT_TEXTS: Final = 32
_KEPT_BYTES: Final = 1 << 20  # a longer text is made anew

_lock = threading.Lock()
_texts: OrderedDict[tuple[int, int, int], bytes] = OrderedDict()


def predecessor(entry: Entry, info: GenerationInfo) -> GenerationInfo | None:
    """What a generation is compared with: its parent, or the newest older one that is still there."""
    older = [one for one in entry.store.generations(entry.oid) if one.epoch < info.epoch]
    return next((one for one in older if one.epoch == info.parent), older[-1] if older else None)


def render_parent_diff(entry: Entry, info: GenerationInfo) -> bytes:
    """`diff` of a generation. Raises ImageError, SlosError."""
    return render_diff(entry, predecessor(entry, info), info)


def render_diff(entry: Entry, old: GenerationInfo | None, new: GenerationInfo) -> bytes:
    """Both generations' times, then a line for each difference; None compares with nothing."""
    key = (entry.serial, old.epoch if old else 0, new.epoch)
    with _lock:
        if key in _texts:
            _texts.move_to_end(key)
            return _texts[key]
    text = _made(entry, old, new)
    if len(text) <= _KEPT_BYTES:
        with _lock:
            _texts[key] = text
            while len(_texts) > _KEPT_TEXTS:
                _texts.popitem(last=False)
    return text


def _made(entry: Entry, old: GenerationInfo | None, new: GenerationInfo) -> bytes:
    before = images.get(entry, old.epoch) if old else None
    after = images.get(entry, new.epoch)
    found = differences(before, after, StoredChanges(entry, old or new, new))
    lines = [f"--- {_titled(old)}", f"+++ {_titled(new)}", *found, *_of_files(entry, old, new)]
    return "".join(f"{line}\n" for line in lines).encode()


def _of_files(entry: Entry, old: GenerationInfo | None, new: GenerationInfo) -> Iterable[str]:
    """What differs in `files/`; of a first generation, how much is in it."""
    store, epoch = entry.files.store, files_epoch(new)
    if old is not None:
        return file_differences(store, entry.oid, files_epoch(old), epoch)
    count = file_count(store, entry.oid, epoch)
    return [f"+ files ({count} files)"] if count else []


def _titled(info: GenerationInfo | None) -> str:
    return f"generation {info.epoch} {format_time(info.time_ns)}" if info else "nothing"


# --- pages ------------------------------------------------------------------------------------


class StoredChanges:
    """`sls.diff.Changes` of two generations of a partition."""

    def __init__(self, entry: Entry, old: GenerationInfo, new: GenerationInfo) -> None:
        self._entry = entry
        self._old = old
        self._new = new

    def of_memory(self, old: ProcessImage, new: ProcessImage) -> list[Range]:
        """A page of a file that one generation holds and the other does not may still be the same."""
        candidates = self._candidates(old.memory.object_id, new.memory.object_id)
        before = open_space(self._entry, self._old, old)
        after = open_space(self._entry, self._new, new)
        return merged(_unequal(candidates, before.read, after.read))

    def of_content(self, old_object: int, new_object: int) -> list[Range]:
        before = GenerationObjects(self._entry, self._old.epoch)
        after = GenerationObjects(self._entry, self._new.epoch)
        return merged(
            _unequal(
                self._candidates(old_object, new_object),
                lambda start, length: before.read(old_object, start, length).ljust(length, b"\0"),
                lambda start, length: after.read(new_object, start, length).ljust(length, b"\0"),
            )
        )

    def _candidates(self, old_object: int, new_object: int) -> list[Range]:
        """Ranges of pages that may differ."""
        store, oid = self._entry.store, self._entry.oid
        epochs = (self._old.epoch, self._new.epoch)
        if old_object == new_object:
            found = list(store.changed_ranges(oid, *epochs, new_object))
        else:
            found = [*store.data_ranges(oid, epochs[0], old_object)]
            found += store.data_ranges(oid, epochs[1], new_object)
        return merged((a & -PAGE_BYTES, -(-b // PAGE_BYTES) * PAGE_BYTES) for a, b in found)


Reader = Callable[[int, int], bytes]  # (position, length) → bytes, short where they end


def _unequal(candidates: Iterable[Range], old: Reader, new: Reader) -> Iterator[Range]:
    """Pages within `candidates` that both have, with other bytes."""
    for start, end in candidates:
        for position in range(start, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - position)
            before, after = (_read_whole(read, position, length) for read in (old, new))
            if before and after:
                yield from _unequal_pages(position, before, after)
            elif length > PAGE_BYTES:  # not all of it is there: page by page
                pages = range(position, position + length, PAGE_BYTES)
                yield from _unequal([(page, page + PAGE_BYTES) for page in pages], old, new)


def _read_whole(read: Reader, position: int, length: int) -> bytes:
    try:
        data = read(position, length)
    except UnmappedError:
        return b""
    return data if len(data) == length else b""


def _unequal_pages(position: int, before: bytes, after: bytes) -> Iterator[Range]:
    rows = [np.frombuffer(data, np.uint8).reshape(-1, PAGE_BYTES) for data in (before, after)]
    for index in np.flatnonzero((rows[0] != rows[1]).any(axis=1)).tolist():
        yield position + index * PAGE_BYTES, position + (index + 1) * PAGE_BYTES
