"""One descriptor of every kind the kernel offers: it comes back as the same kind, or is refused by name."""

import pytest

from tests.sls.conftest import Either, Kept

KINDS = [
    "regular", "tmpfile", "directory", "path", "pipe", "packet-pipe", "fifo", "eventfd", "epoll", "inotify",
    "fanotify", "signalfd", "timerfd", "timerfd-alarm", "memfd", "huge-memfd", "secret-memfd", "pidfd", "ptmx",
    "userfaultfd", "io_uring", "bpf", "perf", "landlock", "message-queue", "fsopen", "open_tree",
    "/dev/null", "/dev/full", "/dev/urandom", "/dev/kmsg", "/dev/fuse",
    "/dev/tty0", "/dev/ttyS0", "/dev/console", "/dev/net/tun", "/dev/loop-control", "/dev/loop0",
    "/dev/kvm", "/dev/userfaultfd",
    "/proc/self/ns/net", "/proc/self/status", "/proc/self/mem", "/proc/self/maps",
    "/proc/self", "/proc", "/proc/meminfo", "/proc/sys/kernel/hostname", "/proc/pressure/cpu",
    "/sys/kernel/mm/transparent_hugepage/enabled", "/sys/fs/cgroup", "/sys",
    "socket-1-1-0", "socket-1-2-0", "socket-1-5-0", "socket-2-1-0", "socket-2-2-0", "socket-2-3-1", "socket-2-1-132",
    "socket-2-1-262", "socket-10-1-0", "socket-10-2-0", "socket-10-3-58", "socket-16-3-0",
    "socket-16-3-16", "socket-17-3-0",
    "/proc/self/ns/uts", "/dev/zero", "/dev/random", "/dev/shm", "socket-38-5-0", "socket-40-1-0", "socket-44-3-0",
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS)
def test_x26_every_kind_is_kept_or_refused_by_name(either: Either, kind: str) -> None:
    refusal = either("kinds.c", kind)
    assert not refusal or "fd 3: " in refusal


@pytest.mark.parametrize("seed", range(3))
def test_a_mixture_of_kinds(kept: Kept, seed: int) -> None:
    """Ninety descriptors at random numbers with random flags, some shared by dup, all by a child."""
    kept("kinds.c", "mixture", seed)
