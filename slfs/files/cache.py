"""Pages of one file that the store does not hold yet.

Two layers lie over the store's: what is being flushed, and above it what came since. Pure; the tree
around it takes care of locks and sizes.
"""

from typing import Final

from slos.store import PAGE_BYTES

ZERO_PAGE: Final = bytes(PAGE_BYTES)
UNCUT: Final = 1 << 60
Pages = dict[int, bytes | bytearray]


class Content:
    """Changed pages by number. From page `cut` on nothing below this layer counts any more."""

    __slots__ = ("cut", "flushing", "flushing_cut", "pages")

    def __init__(self) -> None:
        self.pages: Pages = {}
        self.cut = UNCUT
        self.flushing: Pages | None = None
        self.flushing_cut = UNCUT

    def find(self, number: int) -> bytes | bytearray | None:
        """A page that is not to be asked of the store; None for one that is."""
        found = self.pages.get(number)
        if found is not None:
            return found
        if number >= self.cut:
            return ZERO_PAGE
        if self.flushing is not None:
            found = self.flushing.get(number)
            if found is not None:
                return found
            if number >= self.flushing_cut:
                return ZERO_PAGE
        return None

    def find_all(self, first: int, end: int) -> list[bytes | bytearray] | None:
        """Pages [first, end) where this layer has them all."""
        pages = self.pages
        try:
            return [pages[number] for number in range(first, end)]
        except KeyError:
            return None

    @property
    def is_dirty(self) -> bool:
        return bool(self.pages) or self.cut != UNCUT

    def cut_at(self, first: int) -> int:
        """Drop pages from number `first` on; how many of them were of this layer."""
        if len(self.pages) < 64:
            gone = [number for number in self.pages if number >= first]
            for number in gone:
                del self.pages[number]
            count = len(gone)
        else:
            kept = {number: page for number, page in self.pages.items() if number < first}
            count = len(self.pages) - len(kept)
            self.pages = kept
        self.cut = min(self.cut, first)
        return count

    def take(self) -> None:
        """This layer is flushed from now on."""
        assert self.flushing is None
        self.flushing, self.flushing_cut = self.pages, self.cut
        self.pages, self.cut = {}, UNCUT

    def settle(self) -> int:
        """What was flushed is in the store: how many pages."""
        count = len(self.flushing or ())
        self.flushing, self.flushing_cut = None, UNCUT
        return count

    def put_back(self) -> int:
        """What was to be flushed is not in the store: how many pages of it came to nothing since."""
        below, cut = self.flushing or {}, self.cut
        merged = {number: page for number, page in below.items() if number < cut}
        merged.update(self.pages)
        lost = len(below) + len(self.pages) - len(merged)
        self.pages = merged
        self.cut = min(cut, self.flushing_cut)
        self.flushing, self.flushing_cut = None, UNCUT
        return lost
