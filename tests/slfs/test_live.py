"""The mount over real partitions: what only a real tracer can get wrong."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sls import proc
from tests.mounts import Mounted, has_ended, is_alive, load, wait_until
from tests.slfs.conftest import Spawn
from tests.sls.visible import is_anyone_running

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def children_of(pid: int) -> list[int]:
    return list(proc.children(pid))


def open_files(mounted: Mounted) -> int:
    return len(os.listdir(f"/proc/{mounted.daemon}/fd"))


def test_001_no_worker_outlives_the_mount(real_mount: Mounted, spawn: Spawn) -> None:
    process = spawn()
    for oid in (1, 2):
        real_mount.partition(oid, create=True)
    one = real_mount.partition(1)
    (one / "attach").write_text(str(process.pid))
    os.utime(one / "checkpoint")
    workers = children_of(real_mount.daemon)
    assert workers
    real_mount.unmount()
    wait_until(lambda: all(map(has_ended, workers)))
    assert proc.status(process.pid)["TracerPid"] == "0"
    assert is_alive(process.pid)


def test_a_removed_partition_takes_its_worker_along(real_mount: Mounted, spawn: Spawn) -> None:
    process = spawn()
    for _ in range(3):
        partition = real_mount.partition(1, create=True)
        (partition / "attach").write_text(str(process.pid))
        os.utime(partition / "checkpoint")
        partition.rmdir()
        wait_until(lambda: not children_of(real_mount.daemon))
    descriptors = open_files(real_mount)
    for _ in range(3):
        partition = real_mount.partition(1, create=True)
        (partition / "attach").write_text(str(process.pid))
        os.utime(partition / "checkpoint")
        partition.rmdir()
        wait_until(lambda: not children_of(real_mount.daemon))
    wait_until(lambda: open_files(real_mount) < descriptors + 3)  # one for a while is none for each
    assert is_alive(process.pid)


SELF = """
import os, sys, time
partition = sys.argv[1]
open(partition + "/attach", "w").write(str(os.getpid()))
for number in range(5):
    os.utime(partition + "/checkpoint")
    with open(partition + "/checkpoint", "w") as file:
        file.write("name=own-%d" % number)
open(sys.argv[2], "w").write("done")
time.sleep(60)
"""


def test_a_member_checkpoints_itself_without_a_deadlock(
    real_mount: Mounted, spawn: Spawn, tmp_path: Path
) -> None:
    partition = real_mount.partition(1, create=True)
    done = tmp_path / "done"
    spawn(sys.executable, "-c", SELF, str(partition), str(done))
    wait_until(done.exists)
    wait_until(lambda: (partition / "checkpoint").read_text() == "10\n")
    names = [load(partition / f"generations/{n}/info")["name"] for n in range(1, 11)]
    assert [name for name in names if name] == [f"own-{n}" for n in range(5)]


def test_010_unmounting_under_continuous_checkpoints(real_mount: Mounted, spawn: Spawn) -> None:
    process = spawn()
    partition = real_mount.partition(1, create=True)
    (partition / "period").write_text("10")
    (partition / "attach").write_text(str(process.pid))
    os.utime(partition / "checkpoint")
    wait_until(lambda: int((partition / "checkpoint").read_text()) >= 5)
    seen = int((partition / "checkpoint").read_text())
    real_mount.unmount()
    # a worker ends after its daemon
    wait_until(lambda: proc.status(process.pid)["TracerPid"] == "0")
    real_mount.mount()
    assert int((partition / "checkpoint").read_text()) >= seen
    assert (partition / "period").read_text() == "10\n"


def test_a_read_only_mount_shows_and_takes_nothing(real_mount: Mounted, spawn: Spawn) -> None:
    process = spawn()
    partition = real_mount.partition(1, create=True)
    (partition / "attach").write_text(str(process.pid))
    os.utime(partition / "checkpoint")
    real_mount.unmount()
    real_mount.mount("-o", "ro")
    assert os.listdir(partition / "generations/latest/processes") == [str(process.pid)]
    for change in (
        lambda: (real_mount.place / "partitions/2").mkdir(),
        lambda: (partition / "attach").write_text(str(process.pid)),
        lambda: os.utime(partition / "checkpoint"),
    ):
        with pytest.raises(OSError, match="Read-only"):
            change()


def test_what_a_process_looks_like(real_mount: Mounted, spawn: Spawn) -> None:
    process = spawn("sleep", "123")
    wait_until(lambda: not is_anyone_running([process.pid]))  # it opens libraries before that
    partition = real_mount.partition(1, create=True)
    (partition / "attach").write_text(str(process.pid))
    os.utime(partition / "checkpoint")
    past = partition / "generations/latest/processes" / str(process.pid)
    now = Path(f"/proc/{process.pid}")
    for name in ("cmdline", "environ", "comm", "auxv"):
        assert (past / name).read_bytes() == (now / name).read_bytes(), name
    limits = [(place / "limits").read_text().split() for place in (past, now)]
    assert limits[0] == limits[1]
    for name in ("exe", "cwd", "root"):
        assert os.readlink(past / name) == os.readlink(now / name)
    assert sorted(os.listdir(past / "fd")) == sorted(os.listdir(now / "fd"))
    assert b"[stack]" in (past / "maps").read_bytes()
    assert os.listdir(past / "threads") == [str(process.pid)]
    copied = subprocess.run(
        ["tar", "-cf", "-", "-C", str(past.parent), "."], capture_output=True, check=True
    )
    assert b"123" in copied.stdout
    process.send_signal(signal.SIGKILL)
