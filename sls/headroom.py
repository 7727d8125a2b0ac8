"""Room for a mapping of ours in a process whose own limit leaves none.

What is mapped counts at the moment of mmap(2) alone, so the limit of the address space (RLIMIT_AS) is higher for that
moment, by no more than is needed: if this process dies in it, that is what stays. The process must stand still.
"""

import resource
from collections.abc import Iterator
from contextlib import contextmanager

from sls import proc


@contextmanager
def room_for(pid: int, size_bytes: int) -> Iterator[None]:
    """Within, `pid` may map so many bytes more; where we may not see to that, its limit decides."""
    try:
        limit = resource.prlimit(pid, resource.RLIMIT_AS)
    except PermissionError:  # another user's, and CAP_SYS_RESOURCE is missing
        yield
        return
    needed = proc.mapped_bytes(pid) + size_bytes
    if limit[0] == resource.RLIM_INFINITY or limit[0] >= needed:
        yield
        return
    hard = limit[1] if limit[1] == resource.RLIM_INFINITY else max(limit[1], needed)
    try:
        resource.prlimit(pid, resource.RLIMIT_AS, (needed, hard))
    except PermissionError:  # to raise a hard limit takes CAP_SYS_RESOURCE
        yield
        return
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_AS, limit)
