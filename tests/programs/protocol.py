"""How a self-checking program speaks to the driver: `ready`, then a wait, then `ok` or what is wrong.

A program sets up its resource, calls `wait_for_go`, checks the resource, calls `finish`. The wait looks for the path
in argv[1] every 5 ms, so that it survives a restore with whatever the program holds.
"""

import os
import sys
import time
from typing import NoReturn

CASE = sys.argv[2:]
_ROUNDS = 60_000  # of 5 ms: five minutes


def wait_for_go() -> None:
    """Say `ready`; return when the driver has done what it does in the meantime."""
    print("ready", flush=True)
    wait_along()


def wait_along() -> None:
    """The same wait in a child of the program, which says nothing. It ends when nobody is left to say go."""
    for _ in range(_ROUNDS):
        if os.path.exists(sys.argv[1]):
            return
        time.sleep(0.005)
    sys.exit("go never came")


def is_time_to_go() -> bool:
    """Whether the driver has said go, for a program that works meanwhile."""
    return os.path.exists(sys.argv[1])


def expect(name: str, found: object, wanted: object) -> None:
    """End the program with words when `found` is not `wanted`."""
    if found != wanted:
        sys.exit(f"{name}: {found!r} instead of {wanted!r}")


def finish() -> NoReturn:
    """Everything was as it should be."""
    print("ok", flush=True)
    sys.exit(0)
