"""heap.py MEBIBYTES READY: a heap of objects and a bytearray, some of it changed every 10 ms, for ever."""

import sys
import time
from pathlib import Path

size = int(sys.argv[1]) << 19
block = bytearray(range(256)) * (size // 256)
objects = {number: f"value {number}" for number in range(size // 200)}
Path(sys.argv[2]).touch()
turn = 0
while True:
    turn += 1
    for step in range(160):
        block[(turn * 7919 + step * 613) * 4096 % size] = turn % 256
    time.sleep(0.01)
