"""A checksum over 100 MiB and a dictionary, computed piece by piece; prints each piece's number, then the result.

argv[1]: seconds of sleep after each piece.
"""

import hashlib
import sys
import time
import zlib

PIECE = 1 << 20
PIECES = 100

area = bytearray(PIECE * PIECES)
for number in range(PIECES):
    area[number * PIECE : (number + 1) * PIECE] = hashlib.shake_128(b"%d" % number).digest(PIECE)
names = {f"name {number}": {"number": number, "square": number**2} for number in range(50_000)}

checksum = 0
for number in range(PIECES):
    checksum = zlib.crc32(area[number * PIECE : (number + 1) * PIECE], checksum)
    area[number * PIECE] ^= 1  # no page stays as it was for ever
    names[f"piece {number}"] = {"number": checksum}
    print(number, flush=True)
    time.sleep(float(sys.argv[1]))
total = sum(entry["number"] for entry in names.values())
squares = sum(entry.get("square", 0) for entry in names.values())
print(f"{checksum} {zlib.crc32(area)} {total} {squares}")
