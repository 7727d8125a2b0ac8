"""What applications load: partitions through the mount, with the standard library alone.

    import libsls

    libsls.attach(1, os.getpid())
    epoch = libsls.checkpoint(1, name="before the risky part")
    libsls.wait_durable(1)

A refusal is RefusedError, an OSError whose `strerror` is the reason; no mount is NoMountError.
A member that checkpoints its own partition goes on before the generation is taken.
"""

from libsls import protocol
from libsls.mount import NoMountError, Partition, RefusedError, find_mount, partitions
from libsls.protocol import Restored

__all__ = [
    "NoMountError",
    "Partition",
    "RefusedError",
    "Restored",
    "attach",
    "checkpoint",
    "create",
    "delete",
    "detach",
    "find_mount",
    "members",
    "partitions",
    "restore",
    "wait_durable",
]


def create(oid: int) -> Partition:
    """Make a partition. Raises RefusedError (EEXIST)."""
    partition = Partition(oid)
    partition.create()
    return partition


def delete(oid: int) -> None:
    """Remove a partition and its generations; its processes live on."""
    Partition(oid).delete()


def attach(oid: int, *pids: int) -> None:
    """Take processes into a partition: all or none."""
    Partition(oid).attach(pids)


def detach(oid: int, *pids: int) -> None:
    """Let members go; they live on."""
    Partition(oid).detach(pids)


def members(oid: int) -> list[int]:
    """The pids of a partition's members."""
    return Partition(oid).members()


def checkpoint(
    oid: int,
    *,
    recursive: bool = False,
    full: bool = False,
    kill: bool = False,
    name: str = "",
    wait: bool = True,
) -> int:
    """Take a generation and return its number; with `wait`, when it is durable.

    `kill`: the members do nothing after it, and have ended on return.
    """
    words = protocol.Checkpoint(recursive=recursive, full=full, kill=kill, name=name)
    return Partition(oid).checkpoint(words, wait=wait)


def wait_durable(oid: int) -> int:
    """Wait until the newest generation is durable; returns its number."""
    return Partition(oid).wait_durable()


def restore(
    oid: int,
    generation: int | None = None,
    *,
    stopped: bool = False,
    clone: bool = False,
    kill: bool = False,
) -> Restored:
    """Bring a generation back, the newest by default, in the background; returns its pids."""
    words = protocol.Restore(
        generation=generation, daemon=True, stopped=stopped, clone=clone, kill=kill
    )
    return Partition(oid).restore(words)
