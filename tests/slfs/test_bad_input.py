"""What nobody should ask for, on real processes: refused at the write, in words, without harm."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from slos.fsck import fsck
from sls import proc
from sls.errors import TaskDiedError
from tests.libsls.conftest import LAUNCHER
from tests.mounts import REAL, Mounted, has_ended, is_alive, load, mounting, wait_until
from tests.slfs.conftest import Spawn

pytestmark = [pytest.mark.root, pytest.mark.fuse]

COUNT = """
import time
number = 0
while True:
    number += 1
    print(number, flush=True)
    time.sleep(0.001)
"""


@pytest.fixture
def partition(real_mount: Mounted) -> Path:
    return real_mount.partition(1, create=True)


def refused(path: Path, text: str) -> int:
    """The errno of a write that must be refused."""
    with path.open("wb", buffering=0) as file, pytest.raises(OSError) as caught:
        file.write(text.encode())
    assert caught.value.errno is not None
    return caught.value.errno


def check_refused(partition: Path, pid: int, codes: set[int], words: str) -> None:
    """By the control file and by slsctl; nothing changes, and the reason stands in log and status."""
    assert refused(partition / "attach", str(pid)) in codes
    reason = load(partition / "status")["last_error"]
    assert words in reason
    assert reason in (partition / "log").read_text()
    command = [sys.executable, str(LAUNCHER), "attach", "-o", "1", "-p", str(pid)]
    outcome = subprocess.run(
        command,
        env=os.environ | {"SLFS_MOUNT": str(partition.parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, words in outcome.stderr) == (1, True), outcome.stderr
    assert (partition / "attach").read_text() == ""


def test_a_pid_that_does_not_exist(partition: Path) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    check_refused(partition, process.pid, {errno.ESRCH}, "does not exist")


def test_a_kernel_thread(partition: Path) -> None:
    threads = [pid for pid in all_pids() if proc.stat(pid).is_kernel_thread]
    if not threads:
        pytest.skip("this pid namespace shows no kernel thread")
    check_refused(partition, threads[0], {errno.EINVAL}, "kernel thread")


def all_pids() -> Iterator[int]:
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                proc.stat(int(name))
            except TaskDiedError:
                continue
            yield int(name)


def test_a_zombie(partition: Path) -> None:
    process = subprocess.Popen(["true"])
    wait_until(lambda: proc.stat(process.pid).is_zombie)
    check_refused(partition, process.pid, {errno.ESRCH}, "zombie")
    process.wait()


def test_one_that_gdb_traces(partition: Path, spawn: Spawn) -> None:
    pid = spawn().pid
    with subprocess.Popen(
        ["gdb", "-q", "-nx", "-p", str(pid)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as gdb:
        wait_until(lambda: proc.status(pid)["TracerPid"] == str(gdb.pid))
        check_refused(partition, pid, {errno.EBUSY, errno.EPERM}, f"traced by pid {gdb.pid}")
        gdb.communicate(b"detach\nquit\n")
    assert is_alive(pid)


def test_the_daemon_itself(real_mount: Mounted, partition: Path) -> None:
    check_refused(partition, real_mount.daemon, {errno.EINVAL}, "own")


def test_its_worker(real_mount: Mounted, partition: Path, spawn: Spawn) -> None:
    other = real_mount.partition(2, create=True)
    (other / "attach").write_text(str(spawn().pid))
    os.utime(other / "checkpoint")
    (worker,) = proc.children(real_mount.daemon)
    check_refused(partition, worker, {errno.EINVAL}, "own")


def test_one_of_which_the_daemon_descends(tmp_path: Path) -> None:
    """Its descendants would be members with it: the daemon would stop itself."""
    with mounting(tmp_path, REAL) as make:
        mounted = make()
        mount = f"{sys.executable} -m slfs {mounted.store} {mounted.place} --foreground"
        with subprocess.Popen(["sh", "-c", f"{mount}; :"], stderr=subprocess.DEVNULL) as shell:
            wait_until(mounted.is_mounted)
            partition = mounted.partition(1, create=True)
            for pid in (shell.pid, 1):
                check_refused(partition, pid, {errno.EINVAL}, "has this filesystem's daemon among")
            subprocess.run(["umount", str(mounted.place)], check=True)


def test_a_thread_that_is_no_process(partition: Path, spawn: Spawn) -> None:
    code = "import threading, time; threading.Thread(target=time.sleep, args=(60,)).start()"
    pid = spawn(sys.executable, "-c", code).pid
    wait_until(lambda: len(os.listdir(f"/proc/{pid}/task")) == 2)
    (thread,) = (int(tid) for tid in os.listdir(f"/proc/{pid}/task") if int(tid) != pid)
    check_refused(partition, thread, {errno.EINVAL}, "thread")


def test_one_in_a_partition_already(real_mount: Mounted, partition: Path, spawn: Spawn) -> None:
    pid = spawn().pid
    other = real_mount.partition(2, create=True)
    (other / "attach").write_text(str(pid))
    check_refused(partition, pid, {errno.EBUSY}, "partition 2")
    assert refused(other / "attach", str(pid)) == errno.EEXIST
    assert (other / "attach").read_text() == f"{pid}\n"


def test_x21_two_partitions_do_not_see_each_other(real_mount: Mounted, spawn: Spawn) -> None:
    one, two = (real_mount.partition(oid, create=True) for oid in (1, 2))
    pids = [spawn().pid for _ in range(2)]
    for partition, pid in zip((one, two), pids, strict=True):
        (partition / "attach").write_text(str(pid))
    os.utime(one / "checkpoint")
    assert os.listdir(one / "generations/latest/processes") == [str(pids[0])]
    assert os.listdir(two / "generations") == []
    assert refused(two / "restore", "1") == errno.ENOENT
    assert (two / "attach").read_text() == f"{pids[1]}\n"
    one.rmdir()
    assert all(map(is_alive, pids))


def test_x22_a_pid_in_use_is_named(partition: Path, spawn: Spawn) -> None:
    process = spawn()
    (partition / "attach").write_text(str(process.pid))
    os.utime(partition / "checkpoint")
    assert refused(partition / "restore", "daemon") == errno.EEXIST
    assert str(process.pid) in load(partition / "status")["last_error"]
    assert is_alive(process.pid)
    assert (partition / "attach").read_text() == f"{process.pid}\n"


def test_a_restore_without_its_generation(partition: Path) -> None:
    assert refused(partition / "restore", "daemon") == errno.ENOENT
    assert refused(partition / "restore", "7 daemon") == errno.ENOENT
    assert "generation" in load(partition / "status")["last_error"]


def test_x26_a_failed_checkpoint_leaves_the_earlier_ones(partition: Path, spawn: Spawn) -> None:
    """A process that takes on something that cannot be kept: refused by name, and it goes on."""
    code = (
        "import ctypes, signal, time\n"
        "def take(*_):\n"
        "    ctypes.CDLL(None).syscall(425, 8, (ctypes.c_char * 120)())\n"  # io_uring_setup
        "signal.signal(signal.SIGUSR1, take)\n"
        "while True: time.sleep(0.01)\n"
    )
    process = spawn(sys.executable, "-c", code)
    wait_until(lambda: int(proc.status(process.pid)["SigCgt"], 16) & 1 << signal.SIGUSR1 - 1)
    (partition / "attach").write_text(str(process.pid))
    os.utime(partition / "checkpoint")
    process.send_signal(signal.SIGUSR1)
    links = Path(f"/proc/{process.pid}/fd")
    wait_until(lambda: any("io_uring" in os.readlink(link) for link in links.iterdir()))
    with pytest.raises(OSError) as caught:
        os.utime(partition / "checkpoint")
    assert caught.value.errno == errno.EOPNOTSUPP
    assert "io_uring" in load(partition / "status")["last_error"]
    assert (partition / "checkpoint").read_text() == "1\n"
    wait_until(partial(is_running, process.pid))
    process.kill()
    process.wait()
    (partition / "restore").write_text("daemon")
    (restored,) = map(int, (partition / "attach").read_text().split())
    wait_until(partial(is_running, restored))
    kill_restored(partition)


def is_running(pid: int) -> bool:
    return proc.stat(pid).state in "RS"


def kill_restored(partition: Path) -> None:
    for pid in map(int, (partition / "attach").read_text().split()):
        os.kill(pid, signal.SIGKILL)
        wait_until(partial(has_ended, pid))


# --- the daemon is killed ---------------------------------------------------------------------


class Counter:
    """A program that counts into a file. `newest` is its last number; at the end none is missing."""

    def __init__(self, directory: Path) -> None:
        self._output = directory / "count"
        with self._output.open("wb") as file:
            self._process = subprocess.Popen(
                [sys.executable, "-c", COUNT],
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.DEVNULL,
            )
        self.pid = self._process.pid

    def newest(self) -> int:
        lines = self._output.read_bytes().split(b"\n")
        return int(lines[-2]) if len(lines) > 1 else 0

    def __enter__(self) -> "Counter":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()
        numbers = [int(line) for line in self._output.read_bytes().split(b"\n")[:-1]]
        assert numbers == list(range(1, len(numbers) + 1))


@pytest.mark.slow
@pytest.mark.crash
@pytest.mark.parametrize("seeds", [(2, 3), (4, 5)], ids=["one", "other"])
def test_x01_the_daemon_killed_at_random_harms_nobody(
    tmp_path: Path, seeds: tuple[int, ...]
) -> None:
    """100 times in all: SIGKILL during checkpoints; the application runs on, what was durable is there."""
    with ThreadPoolExecutor() as pool:  # most of the time a daemon begins, on one processor
        for end in [pool.submit(kill_again_and_again, tmp_path, seed, 25) for seed in seeds]:
            end.result()


def kill_again_and_again(directory: Path, seed: int, times: int) -> None:
    """The daemon of a store of its own."""
    chance = random.Random(seed)
    place = directory / str(seed)
    place.mkdir()
    with Counter(place) as counter, mounting(place, REAL) as make:
        mounted = make()
        durable = 0
        for number in range(times):
            mounted.mount()
            partition = mounted.partition(1, create=not durable and not partition_exists(mounted))
            epochs = sorted(map(int, filter(str.isdigit, os.listdir(partition / "generations"))))
            assert not durable or durable in epochs
            (partition / "attach").write_text(str(counter.pid))
            (partition / "retain").write_text("3")
            durable = checkpoint_and_kill(mounted, partition, chance.random() * 0.05)
            wait_until(partial(goes_on, counter, counter.newest()))
            wait_until(partial(is_untraced, counter.pid))
            subprocess.run(["umount", "--lazy", str(mounted.place)], check=True)
            if number % 10 == 0:
                assert fsck(mounted.store).is_clean


def goes_on(counter: Counter, seen: int) -> bool:
    return counter.newest() > seen


def is_untraced(pid: int) -> bool:
    """A worker ends after its daemon."""
    return proc.status(pid)["TracerPid"] == "0"


def partition_exists(mounted: Mounted) -> bool:
    return mounted.partition(1).exists()


def checkpoint_and_kill(mounted: Mounted, partition: Path, delay: float) -> int:
    """One durable generation, then one under which the daemon is killed; the durable one's number."""
    with (partition / "checkpoint").open("r+b", buffering=0) as file:
        try:
            file.write(b"\n")
        except OSError as error:
            raise AssertionError((partition / "log").read_text()) from error
        os.fsync(file.fileno())
        durable = int(os.pread(file.fileno(), 64, 0))
    with subprocess.Popen(["touch", str(partition / "checkpoint")], stderr=subprocess.DEVNULL):
        time.sleep(delay)  # the instant of the kill is what is tested
        os.kill(mounted.daemon, signal.SIGKILL)
        mounted.wait_ended()
    return durable
