"""A tree as text: every name with kind, mode, owner, size, time, target and contents."""

import hashlib
import os
import stat
from pathlib import Path


def digest(root: Path, most_bytes: int = 1 << 40) -> dict[str, tuple[object, ...]]:
    """What is in a tree, by name; of a file its first `most_bytes`."""
    found: dict[str, tuple[object, ...]] = {}
    for place, directories, files in os.walk(root):
        for name in (*directories, *files):
            path = Path(place, name)
            found[str(path.relative_to(root))] = _describe(path, most_bytes)
    return found


def _describe(path: Path, most_bytes: int) -> tuple[object, ...]:
    one = path.lstat()
    shape = (oct(one.st_mode), one.st_nlink, one.st_uid, one.st_gid, one.st_mtime_ns)
    if stat.S_ISREG(one.st_mode):
        with path.open("rb") as file:
            return (
                *shape,
                one.st_size,
                hashlib.sha256(file.read(min(one.st_size, most_bytes))).hexdigest(),
            )
    if stat.S_ISLNK(one.st_mode):
        return (*shape, path.readlink())
    return (*shape, one.st_rdev)
