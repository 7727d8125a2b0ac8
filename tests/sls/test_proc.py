"""Text of /proc: what the kernel prints comes back as typed values, whatever the names in it."""

import os
import resource
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sls import proc
from sls.errors import TaskDiedError
from sls.proc import VmaLine
from tests.mounts import wait_until

NAMES = st.binary(min_size=1, max_size=30).filter(lambda name: b"\0" not in name)
PATHS = NAMES.map(lambda name: b"/" + name.replace(b"\\", b"_"))
COMMS = st.binary(max_size=15).filter(lambda name: b"\0" not in name and b"\n" not in name)


@given(COMMS, st.lists(st.integers(-(1 << 40), 1 << 60), min_size=49, max_size=52))
def test_stat_with_any_name(comm: bytes, numbers: list[int]) -> None:
    found = proc.parse_stat(b"7 (%s) S %s\n" % (comm, b" ".join(b"%d" % one for one in numbers)))
    assert (found.pid, found.comm, found.state) == (7, comm, "S")
    assert (found.ppid, found.exit_code) == (numbers[0], numbers[48])


@given(
    st.integers(0, 1 << 47),
    st.integers(1, 1 << 40),
    st.sampled_from(["r--p", "rwxs", "---p"]),
    st.one_of(st.just(b""), PATHS),
)
def test_maps_with_any_path(start: int, length: int, permissions: str, path: bytes) -> None:
    path = path.rstrip() if path else path
    line = b"%x-%x %s 00001000 fe:01 77 %s%s\n" % (
        start, start + length, permissions.encode(), b" " * 20, path.replace(b"\n", b"\\012"),
    )  # fmt: skip
    wanted = VmaLine(start, start + length, permissions, 0x1000, 0xFE, 1, 77, path)
    assert proc.parse_maps(line * 2) == [wanted, wanted]


def test_smaps_flags_and_protection_keys() -> None:
    text = (
        b"1000-2000 rw-p 00000000 00:00 0 \nRss: 4 kB\nProtectionKey:         3\nVmFlags: rd wr \n"
        b"a000-b000 r--p 00000000 00:00 0 \nProtectionKey:         0\nVmFlags: rd mr \n"
    )
    assert proc.parse_smaps_flags(text) == {
        0x1000: frozenset({"rd", "wr", "pk"}),
        0xA000: frozenset({"rd", "mr"}),
    }


def test_limits_are_those_of_getrlimit() -> None:
    found = proc.parse_limits(proc.read(os.getpid(), "limits"))
    assert found == [resource.getrlimit(number) for number in range(16)]


def test_cgroups() -> None:
    assert proc.parse_cgroup(b"4:cpu,cpuacct:/a:b\n0::/x y\n") == [
        (b"cpu,cpuacct", b"/a:b"),
        (b"", b"/x y"),
    ]
    mounts = (
        b"32 31 0:29 / /sys/fs/cgroup/cpu rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
        b"40 31 0:38 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        b"41 31 0:39 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n"
        b"42 31 0:39 /sub /elsewhere rw - cgroup2 cgroup2 rw\n"
    )
    assert proc.parse_cgroup_mounts(mounts) == {
        b"cpu,cpuacct": b"/sys/fs/cgroup/cpu",
        b"name=systemd": b"/sys/fs/cgroup/systemd",
        b"": b"/sys/fs/cgroup/unified",
    }


def test_a_task_that_is_gone() -> None:
    pid = os.posix_spawn("/bin/true", ["true"], {})
    os.waitpid(pid, 0)
    for look in (proc.stat, proc.status, proc.children):
        with pytest.raises(TaskDiedError):
            look(pid)
    assert not proc.exists(pid)


def test_ancestry_goes_up_to_init() -> None:
    found = list(proc.ancestry(os.getpid()))
    parent = os.getppid()
    assert found[:2] == ([os.getpid(), parent] if parent > 1 else [os.getpid()])
    assert 1 not in found
    assert list(proc.ancestry(0)) == []
    child = subprocess.Popen(["true"])
    child.wait()
    wait_until(lambda: list(proc.ancestry(child.pid)) == [child.pid])
