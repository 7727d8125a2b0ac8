"""POSIX access control lists in the form in which xattr(7) carries them (acl(5)). Pure.

The kernel checks them; a file system has to keep the mode in step, and to hand a directory's default
list down to what is made in it.
"""

import errno
import os
import stat
from struct import Struct, error
from typing import Final, NamedTuple

ACCESS: Final = b"system.posix_acl_access"
DEFAULT: Final = b"system.posix_acl_default"

_VERSION: Final = 2
_HEAD: Final = Struct("<I")
_ENTRY: Final = Struct("<HHI")
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 1, 2, 4, 8, 16, 32


class AclEntry(NamedTuple):
    """One line of a list."""

    tag: int
    permissions: int
    qualifier: int


def parse(value: bytes) -> list[AclEntry]:
    """The entries; EINVAL where the value is no list."""
    try:
        (version,) = _HEAD.unpack_from(value)
        entries = [AclEntry(*entry) for entry in _ENTRY.iter_unpack(value[_HEAD.size :])]
    except error as problem:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL)) from problem
    if version != _VERSION or not {_USER_OBJ, _GROUP_OBJ, _OTHER} <= {one.tag for one in entries}:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    return entries


def encode(entries: list[AclEntry]) -> bytes:
    """A list as a value."""
    return _HEAD.pack(_VERSION) + b"".join([_ENTRY.pack(*entry) for entry in entries])


def _class_of(entries: list[AclEntry]) -> tuple[int, int, int]:
    """Permissions of owner, group class and others: the nine bits of the mode."""
    found = {one.tag: one.permissions for one in entries}
    return found[_USER_OBJ], found.get(_MASK, found[_GROUP_OBJ]), found[_OTHER]


def mode_of(value: bytes) -> int:
    """The permission bits that an access list stands for."""
    owner, group, other = _class_of(parse(value))
    return owner << 6 | group << 3 | other


def is_minimal(value: bytes) -> bool:
    """Whether the mode alone says as much."""
    return len(parse(value)) == 3


def _masked(entries: list[AclEntry], mode: int, *, keep: bool) -> list[AclEntry]:
    """The list with the classes of `mode`; `keep`: only what both grant."""
    has_mask = any(one.tag == _MASK for one in entries)
    bits = {_USER_OBJ: mode >> 6 & 7, _OTHER: mode & 7}
    bits[_MASK if has_mask else _GROUP_OBJ] = mode >> 3 & 7
    made = []
    for one in entries:
        wanted = bits.get(one.tag, one.permissions)
        made.append(one._replace(permissions=wanted & one.permissions if keep else wanted))
    return made


def with_mode(value: bytes, mode: int) -> bytes:
    """An access list after chmod(2)."""
    return encode(_masked(parse(value), mode, keep=False))


def inherit(default: bytes, mode: int) -> tuple[int, dict[bytes, bytes]]:
    """(mode, extended attributes) of a file made in a directory with that default list."""
    entries = _masked(parse(default), mode, keep=True)
    value = encode(entries)
    attributes = {} if is_minimal(value) else {ACCESS: value}
    if stat.S_ISDIR(mode):
        attributes[DEFAULT] = default
    return (mode & ~0o777) | mode_of(value), attributes
