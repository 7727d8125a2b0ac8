"""Writes golden images: `python -m tests.sls.golden`, for a new version of the format or a new kind of record.

One file a program, compressed (zlib), in tests/data/images/v<version>/. Existing files stay: what was written once must
be readable for ever. Needs root.
"""

import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from sls import image, proc
from sls.capture import Tracer
from tests.sls.apart import Program, start_apart
from tests.sls.driver import command_of

FOLDER: Final = Path(__file__).parent.parent / "data" / "images"
_HIERARCHY: Final = os.fsdecode(next(iter(proc.cgroup_mounts().values()), b"/sys/fs/cgroup"))
PROGRAMS: Final[dict[str, Sequence[str]]] = {
    "identity": ("identity.c", "settings"),
    "memory": ("advice.c", "lock"),
    "shared": ("shared_memory.c", "anonymous"),
    "threads": ("condition.c", "5"),
    "ipc-namespace": ("ipc_namespace.c",),
    "ipc-objects": ("ipc_objects.c", "usual"),
    "io-uring": ("io_uring.c", "8", "100", "indices", "2"),
    "kinds": ("kinds.c", "mixture", "1"),
    "epoll": ("epoll.c",),
    "files": ("deleted.c",),
    "file-attributes": ("deleted.c",),
    "locks": ("file_lock.c", "locks"),
    "more-settings": ("more_settings.c",),
    "message-queue": ("message_queue.c", "named"),
    "mount-namespace": ("mount_namespace.py", "tmpfs"),
    "cgroup-namespace": ("cgroup_namespace.py", _HIERARCHY, "root"),
    "multicast": ("multicast.py", "4", "any"),
    "namespace-file": ("namespace_file.py", "uts"),
    "net-namespace": ("net_namespace.py", "kept"),
    "numa": ("numa.c", "bind"),
    "packet": ("packet_socket.py", "bound"),
    "pid-namespace": ("pid_namespace.py", "proc"),
    "ping": ("ping_socket.py", "4", "used"),
    "pipe": ("pipe.py", "2", "100"),
    "posix-timers": ("posix_timers.c",),
    "pty": ("pty.c", "packet"),
    "pty-locked": ("pty.c", "kept"),
    "raw": ("raw_socket.py", "4"),
    "seccomp": ("seccomp.c", "filters"),
    "sessions": ("sessions.c", "gone"),
    "signals": ("signals.c",),
    "sysv-messages": ("sysv_message.c",),
    "sysv-semaphores": ("sysv_semaphore.c", "mine"),
    "sysv-shm": ("sysv_shm.c",),
    "tcp": ("tcp_connection.py", "127.0.0.1", "queued"),
    "time-namespace": ("time_namespace.c",),
    "timers": ("itimers.c", "restored"),
    "udp": ("udp.py", "127.0.0.1", "10", "3", "bound"),
    "unix": ("unix_in_flight.py",),
    "user-namespace": ("user_namespace.py", "--user", "--map-root-user", "--uts", "nested"),
    "uts": ("uts_namespace.c",),
    "zombies": ("zombies.c", "pending"),
}


def write(name: str, command: Sequence[str], target: Path) -> None:
    """Capture one program, which is ended then."""
    with tempfile.TemporaryDirectory(prefix="sls-golden-") as text:
        directory = Path(text)
        full = [*command_of(command[0], directory), str(directory / "go"), *command[1:]]
        with Program(full, directory) as program:
            while "ready" not in program.lines():
                assert program.process.poll() is None, (name, program.lines())

            def work() -> None:
                found = Tracer().capture(program.tree, full=True, track=False).image
                target.write_bytes(zlib.compress(image.encode(found), 9))

            assert not os.waitpid(start_apart(work), 0)[1], name


def main() -> None:
    """Write what is not there yet."""
    folder = FOLDER / f"v{image.VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    for name, command in PROGRAMS.items():
        target = folder / f"{name}.image"
        if not target.exists():
            write(name, command, target)


if __name__ == "__main__":
    main()
