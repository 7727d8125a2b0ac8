"""lz4 as the store uses it: bodies of records, one at a time or many blocks of pages in a row.

Pure: bytes in, bytes out; knows no record. lz4 releases the interpreter lock for each call, so a
thread that compresses many blocks makes one call for all of them: it writes them as one frame (LZ4
Frame Format, independent blocks), of which the blocks are then taken.
"""

import struct

import lz4.block
import lz4.frame
from xxhash import xxh32_intdigest

BLOCK_BYTES = 65536  # The least of the sizes that a frame may have.
LZ4 = 1  # The flag of a record whose body is compressed.
_FRAMED_BLOCKS = 16
_SAMPLE_BYTES = 4096  # of each block.
_GAIN_SHIFT = 8
_FRAME_HEADER_BYTES = 7  # Magic, flags, largest block, checksum: no size, no dictionary.
_BLOCK_SIZE = struct.Struct("<I")
# Magic, flags (version 1, independent blocks, size told), largest block: 64 KiB.
_FRAME_MAGIC = (0x184D2204).to_bytes(4, "little")
_FRAME_FLAGS = bytes([0x68, 0x40])
_FRAME_END = bytes(4)
_PLAIN_BLOCK = 1 << 31

Body = tuple[bytes | memoryview, int]


def compress(raw: bytes | memoryview) -> Body:
    """(body, flags): lz4 where it gains at least 1/16, else the bytes themselves."""
    body = lz4.block.compress(raw, store_size=False)
    length = len(raw)
    return (raw, 0) if len(body) > length - (length >> 4) else (body, LZ4)


def compress_blocks(raw: memoryview) -> list[Body]:
    """What `compress` makes of each block of the bytes, the last of which may be shorter."""
    if len(raw) <= _FRAMED_BLOCKS * BLOCK_BYTES:
        starts = range(0, len(raw), BLOCK_BYTES)
        return [compress(raw[start : start + BLOCK_BYTES]) for start in starts]
    return take_blocks(compress_frame(raw), raw)


def compress_frame(raw: memoryview) -> bytes:
    """All blocks of the bytes by one call, which lets other threads run; for `take_blocks`."""
    return bytes(
        lz4.frame.compress(
            raw,
            block_size=lz4.frame.BLOCKSIZE_MAX64KB,
            block_linked=False,
            store_size=False,
        )
    )


class StreamCompressor:
    """Frames of the pieces of one stream; pieces that would gain nothing are not compressed.

    After a piece that gained less than 1/256 a page of each block of the next tells whether that
    one is worth it. What such a sample may miss costs room, nothing else: few pages among many,
    or a likeness between pages only. Several threads may use it.
    """

    def __init__(self) -> None:
        self._gained = True
        self._turn = 0

    def compress(self, raw: memoryview) -> bytes | None:
        """A frame for `take_blocks`, None where the bytes are to be taken as they are."""
        if len(raw) < _FRAMED_BLOCKS * BLOCK_BYTES:
            return compress_frame(raw)
        if not self._gained:
            sample = self._sample(raw)
            self._gained = _gains(compress_frame(sample), sample)
            if not self._gained:
                return None
        frame = compress_frame(raw)
        self._gained = _gains(frame, raw)
        return frame

    def _sample(self, raw: memoryview) -> memoryview:
        """A page of each block, another one each time."""
        self._turn = (self._turn + 5 * _SAMPLE_BYTES) % BLOCK_BYTES
        starts = range(self._turn, len(raw), BLOCK_BYTES)
        return memoryview(b"".join([raw[start : start + _SAMPLE_BYTES] for start in starts]))


def _gains(frame: bytes, raw: memoryview) -> bool:
    return len(frame) < len(raw) - (len(raw) >> _GAIN_SHIFT)


def take_blocks(frame: bytes | None, raw: memoryview) -> list[Body]:
    """The blocks of a frame, each as `compress` makes it; without one the bytes themselves."""
    if frame is None:
        return [(raw[start : start + BLOCK_BYTES], 0) for start in range(0, len(raw), BLOCK_BYTES)]
    view = memoryview(frame)
    bodies: list[Body] = []
    at = _FRAME_HEADER_BYTES
    for start in range(0, len(raw), BLOCK_BYTES):
        size = _BLOCK_SIZE.unpack_from(frame, at)[0]
        length = size & ~_PLAIN_BLOCK
        at += _BLOCK_SIZE.size
        block = raw[start : start + BLOCK_BYTES]
        is_plain = length > len(block) - (len(block) >> 4)  # As a plain one always is.
        bodies.append((block, 0) if is_plain else (view[at : at + length], LZ4))
        at += length
    return bodies


def decompress(body: bytes | memoryview, flags: int, raw: int) -> bytes | memoryview | None:
    """The body's `raw` bytes, or None where it does not hold them; the caller bounds `raw`."""
    if flags & LZ4:
        try:
            body = lz4.block.decompress(body, uncompressed_size=raw)
        except lz4.block.LZ4BlockError:
            return None
    return body if len(body) == raw else None


def decompress_blocks(bodies: list[memoryview], raw: int) -> memoryview | None:
    """The `raw` bytes of compressed bodies in a row, by one call that lets other threads run.

    None where they do not hold so many bytes together. Each of them may hold at most BLOCK_BYTES.
    """
    descriptor = _FRAME_FLAGS + raw.to_bytes(8, "little")
    check = xxh32_intdigest(descriptor) >> 8 & 0xFF
    parts: list[bytes | memoryview] = [_FRAME_MAGIC, descriptor, bytes([check])]
    for body in bodies:
        parts += (_BLOCK_SIZE.pack(len(body)), body)
    parts.append(_FRAME_END)
    try:
        found = lz4.frame.decompress(b"".join(parts))
    except RuntimeError:
        return None
    return memoryview(found) if len(found) == raw else None
