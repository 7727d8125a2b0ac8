"""lz4 as the store uses it: bodies of records, one at a time or many blocks of pages in a row.

Pure: bytes in, bytes out; knows no record. lz4 releases the interpreter lock for each call, so a
thread that compresses many blocks makes one call for all of them: it writes them as one frame (LZ4
Frame Format, independent blocks), of which the blocks are then taken.
"""

import struct

import lz4.block
import lz4.frame

BLOCK_BYTES = 65536  # The least of the sizes that a frame may have.
LZ4 = 1  # The flag of a record whose body is compressed.
_FRAMED_BLOCKS = 16
_FRAME_HEADER_BYTES = 7  # Magic, flags, largest block, checksum: no size, no dictionary.
_BLOCK_SIZE = struct.Struct("<I")
_PLAIN_BLOCK = 1 << 31

Body = tuple[bytes | memoryview, int]


def compress(raw: bytes | memoryview) -> Body:
    """(body, flags): lz4 where it gains at least 1/16, else the bytes themselves."""
    return _smaller(lz4.block.compress(raw, store_size=False), raw)


def _smaller(body: bytes | memoryview, raw: bytes | memoryview) -> Body:
    if len(body) > len(raw) - (len(raw) >> 4):
        return raw, 0
    return body, LZ4


def compress_blocks(raw: memoryview) -> list[Body]:
    """What `compress` makes of each block of the bytes, the last of which may be shorter."""
    starts = range(0, len(raw), BLOCK_BYTES)
    if len(starts) <= _FRAMED_BLOCKS:
        return [compress(raw[start : start + BLOCK_BYTES]) for start in starts]
    frame = memoryview(
        lz4.frame.compress(
            raw,
            block_size=lz4.frame.BLOCKSIZE_MAX64KB,
            block_linked=False,
            store_size=False,
        )
    )
    bodies: list[Body] = []
    at = _FRAME_HEADER_BYTES
    for start in starts:
        size = _BLOCK_SIZE.unpack_from(frame, at)[0]
        length = size & ~_PLAIN_BLOCK
        at += _BLOCK_SIZE.size
        block = raw[start : start + BLOCK_BYTES]
        body = block if size & _PLAIN_BLOCK else frame[at : at + length]
        bodies.append(_smaller(body, block))
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
