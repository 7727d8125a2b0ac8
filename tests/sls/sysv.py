"""Removes System V objects that a program has noted in its file `ids`."""

from contextlib import suppress
from pathlib import Path

from sls.resources.sysv import remove


def remove_noted(kind: str, directory: Path) -> None:
    """IPC_RMID of each; one that is gone already is no matter."""
    ids = directory / "ids"
    for word in ids.read_text().split() if ids.exists() else ():
        with suppress(OSError):
            remove(kind, int(word))
