"""What the mount itself refuses, and the one map from any expected error to an errno.

    SlfsError
    ├── RefusedError      caller: the request does not fit the tree or the caller's rights
    └── MountError        caller or machine: the mount cannot be made

Every message ends with what to do.
"""

import errno as _errno

from libsls.protocol import ProtocolError
from slos.errors import SlosError
from sls.errors import SlsError


class SlfsError(Exception):
    """Base of all errors of this layer."""

    errno: int = _errno.EIO
    exit_status: int = 1

    def __init__(self, message: str, code: int = _errno.EIO) -> None:
        self.errno = code
        super().__init__(message)


class RefusedError(SlfsError):
    """A request that the tree does not take, or that this caller may not make."""

    def __init__(self, message: str, code: int = _errno.EINVAL) -> None:
        super().__init__(message, code)


class MountError(SlfsError):
    """The mount cannot be made; nothing was changed."""


# What may come out of a request; anything else is a defect of the program.
EXPECTED_ERRORS = (SlfsError, SlsError, SlosError, ProtocolError, OSError)


def errno_of(error: BaseException) -> int:
    """The errno that a caller of the mount gets for `error`; EIO for a defect."""
    if isinstance(error, EXPECTED_ERRORS):
        return error.errno or _errno.EIO
    return _errno.EIO
