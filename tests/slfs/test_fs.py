"""Mounting, unmounting and the tree as programs see it. The partitions are fakes, the rest is real."""

import errno
import os
import re
import select
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slfs import mounting
from slfs.options import MountRequest
from slos.errors import StoreBusyError
from slos.objstore import ObjectStore
from tests.mounts import FAKE, MakeMount, Mounted, is_alive, load, wait_until
from tests.slfs.conftest import Spawn

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def take(partition: Path, pid: int) -> int:
    """A generation of `pid`; its number."""
    if str(pid) not in (partition / "attach").read_text().split():
        (partition / "attach").write_text(f"{pid}\n")
    os.utime(partition / "checkpoint")
    return int((partition / "checkpoint").read_text())


def failing_errno(path: Path, text: str) -> int | None:
    """The errno of writing `text`; None when it is taken."""
    with path.open("wb", buffering=0) as file:
        try:
            file.write(text.encode())
        except OSError as error:
            return error.errno
    return None


# --- the mount --------------------------------------------------------------------------------


def test_001_three_starts_leave_nothing(make_mount: MakeMount) -> None:
    mounted = make_mount()
    for _ in range(3):
        mounted.mount()
        assert mounted.is_mounted()
        mounted.unmount()
        assert not mounted.is_mounted()
        assert not is_alive(mounted.daemon)


def test_002_three_stores(make_mount: MakeMount, spawn: Spawn) -> None:
    pid = spawn().pid
    for name in "abc":
        mounted = make_mount(name).mount()
        partition = mounted.partition(1, create=True)
        assert take(partition, pid) == 1
        mounted.unmount()
        assert not mounted.is_mounted()
        with ObjectStore.open(mounted.store, read_only=True) as store:
            assert (store.partitions(), store.newest(1)) == ((1,), 1)


def test_003_a_remount_keeps_settings_and_generations(make_mount: MakeMount, spawn: Spawn) -> None:
    mounted = make_mount().mount()
    partition = mounted.partition(7, create=True)
    for file, text in {"period": "250", "mode": "full", "retain": "5"}.items():
        (partition / file).write_text(text + "\n")
    take(partition, spawn().pid)
    info = (partition / "generations/1/info").read_bytes()
    mounted.unmount()
    mounted.mount()
    read = {file: (partition / file).read_text() for file in ("period", "mode", "retain")}
    assert read == {"period": "250\n", "mode": "full\n", "retain": "5\n"}
    assert (partition / "generations/1/info").read_bytes() == info
    assert (partition / "checkpoint").read_text() == "1\n"
    assert (partition / "attach").read_text() == ""


def test_004_a_second_daemon_on_a_store_is_refused(make_mount: MakeMount) -> None:
    first, second = make_mount(), make_mount("b")
    first.mount()
    second.store = first.store
    outcome = second.start()
    assert outcome.returncode == 1
    assert f"is mounted on {first.place}" in outcome.stderr
    assert first.status()["partitions"] == 0


def test_006_a_store_held_by_another_program_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = tmp_path / "a.slos"
    ObjectStore.create(store)
    monkeypatch.setattr(mounting, "CLOSING_SECONDS", 0.0)
    with ObjectStore.open(store), pytest.raises(StoreBusyError):
        mounting.open_store(MountRequest(store=store, mountpoint=tmp_path))


def test_005_stopping_twice_is_a_clear_error(mounted: Mounted) -> None:
    mounted.unmount()
    again = subprocess.run(
        ["umount", str(mounted.place)], capture_output=True, text=True, check=False
    )
    assert again.returncode != 0
    assert "not mounted" in again.stderr


def test_007_sigterm_unmounts_and_closes(make_mount: MakeMount, spawn: Spawn) -> None:
    mounted = make_mount().mount()
    take(mounted.partition(1, create=True), spawn().pid)
    os.kill(mounted.daemon, signal.SIGTERM)
    mounted.wait_ended()
    assert not mounted.is_mounted()
    with ObjectStore.open(mounted.store) as store:
        assert store.newest(1) == 1


def test_008_mounting_over_a_mounted_slfs_is_refused(make_mount: MakeMount) -> None:
    first, second = make_mount(), make_mount("b")
    first.mount()
    second.place = first.place
    outcome = second.start()
    assert outcome.returncode == 1
    assert "is a mounted slfs" in outcome.stderr
    assert not second.store.exists()
    second.daemon = 0


def test_009_unmounting_under_a_checkpoint_is_refused(make_mount: MakeMount, spawn: Spawn) -> None:
    mounted = make_mount().mount(environment={"SLS_FAKE_DELAY": "3"})
    partition = mounted.partition(1, create=True)
    (partition / "attach").write_text(str(spawn().pid))
    with subprocess.Popen(["touch", str(partition / "checkpoint")]) as touching:
        wait_until(lambda: load(partition / "status")["busy"])
        busy = subprocess.run(["umount", str(mounted.place)], capture_output=True, check=False)
        assert busy.returncode != 0
        assert touching.wait() == 0
    assert (partition / "checkpoint").read_text() == "1\n"


def test_010_unmounting_waits_for_what_was_accepted(make_mount: MakeMount, spawn: Spawn) -> None:
    mounted = make_mount().mount(environment={"SLS_FAKE_DELAY": "3"})
    partition = mounted.partition(1, create=True)
    command = (
        f"echo $$ > {partition}/attach; echo name=self > {partition}/checkpoint; exec sleep 60"
    )
    spawn("sh", "-c", command)
    wait_until(lambda: load(partition / "status")["busy"])
    mounted.unmount()
    mounted.mount()
    assert load(partition / "generations/latest/info")["name"] == "self"


def test_a_dead_mount_is_cleared_away(make_mount: MakeMount) -> None:
    mounted = make_mount().mount()
    mounted.partition(3, create=True)
    os.kill(mounted.daemon, signal.SIGKILL)
    mounted.wait_ended()
    with pytest.raises(OSError) as caught:
        os.statvfs(mounted.place)  # asks the daemon; stat(2) tells what the kernel keeps
    assert caught.value.errno in mounting.DEAD_ERRNOS
    mounted.mount()
    assert mounted.partition(3).is_dir()


def test_it_works_as_a_mount_helper(make_mount: MakeMount, tmp_path: Path) -> None:
    mounted = make_mount()
    helper = tmp_path / "slfs"
    helper.write_text(f'#!/bin/sh\ncd {Path.cwd()}\nexec {sys.executable} -m {FAKE} "$@"\n')
    helper.chmod(0o755)
    command = ["mount", "-t", f"fuse.{helper}", "-o", "nodev,noatime,x-systemd.automount"]
    subprocess.run([*command, str(mounted.store), str(mounted.place)], check=True)
    mounted.daemon = mounted.status()["pid"]
    table = Path("/proc/self/mounts").read_text()
    assert f"{mounted.store} {mounted.place} fuse.slfs rw" in table


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda mounted: mounted.place.rmdir(), "does not exist"),
        (lambda mounted: (mounted.place.rmdir(), mounted.place.touch()), "not a directory"),
        (lambda mounted: mounted.store.write_bytes(b"x" * 10000), ""),
    ],
    ids=["no-place", "file", "no-store"],
)
def test_what_cannot_be_mounted_is_refused_in_words(
    make_mount: MakeMount, spoil: object, words: str
) -> None:
    mounted = make_mount()
    assert callable(spoil)
    spoil(mounted)
    outcome = mounted.start()
    assert outcome.returncode == 1
    assert words in outcome.stderr
    assert re.fullmatch(r"slfs: .*\n", outcome.stderr)


# --- the tree ---------------------------------------------------------------------------------


def test_the_top(mounted: Mounted) -> None:
    assert sorted(os.listdir(mounted.place)) == ["README", "metrics", "partitions", "status"]
    assert "checkpoint" in (mounted.place / "README").read_text()
    assert mounted.status()["pid"] == mounted.daemon
    metrics = (mounted.place / "metrics").read_text()
    assert metrics.endswith("# EOF\n")
    assert os.statvfs(mounted.place).f_namemax == 255


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("0", errno.ERANGE),
        ("65537", errno.ERANGE),
        ("99999999999999999999999", errno.ERANGE),
        ("-1", errno.ERANGE),
        ("abc", errno.EINVAL),
        ("01", errno.EINVAL),
        ("1 ", errno.EINVAL),
        ("٣", errno.EINVAL),
    ],
    ids=["zero", "above", "far-above", "negative", "letters", "leading-zero", "blank", "arabic"],
)
def test_a_bad_oid_is_refused(mounted: Mounted, name: str, code: int) -> None:
    with pytest.raises(OSError) as caught:
        (mounted.place / "partitions" / name).mkdir()
    assert caught.value.errno == code
    assert os.listdir(mounted.place / "partitions") == []
    assert "oid" in mounted.status()["last_error"]


def test_an_oid_that_exists_is_refused(mounted: Mounted) -> None:
    for oid in (1, 65536):
        mounted.partition(oid, create=True)
        with pytest.raises(FileExistsError):
            mounted.partition(oid).mkdir()


def test_a_removed_partition_can_be_made_anew(mounted: Mounted, spawn: Spawn) -> None:
    process = spawn()
    partition = mounted.partition(1, create=True)
    take(partition, process.pid)
    partition.rmdir()
    assert not partition.exists()
    assert process.poll() is None
    partition.mkdir()
    assert os.listdir(partition / "generations") == []
    assert (partition / "attach").read_text() == ""


def test_what_the_tree_does_not_take(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    take(partition, spawn().pid)
    generation = partition / "generations/1"
    attempts: dict[int, list[Callable[[], object]]] = {
        errno.EPERM: [
            lambda: (partition / "new").touch(),
            lambda: (partition / "attach").unlink(),
            lambda: (partition / "attach").rename(partition / "x"),
            lambda: (partition / "x").symlink_to("y"),
            lambda: (partition / "x").hardlink_to(partition / "attach"),
            lambda: os.mkfifo(partition / "x"),
            lambda: (partition / "x").mkdir(),
            lambda: (partition / "generations/9").mkdir(),
            lambda: (partition / "generations").rmdir(),
        ],
        errno.EACCES: [
            lambda: (partition / "status").write_text("x"),
            lambda: (partition / "log").write_text("x"),
            lambda: (partition / "stats").touch(),
            lambda: (partition / "attach").chmod(0o777),
            lambda: (mounted.place / "README").write_text("x"),
        ],
        errno.EROFS: [
            lambda: (generation / "info").write_text("x"),
            lambda: (generation / "info").unlink(),
            lambda: (generation / "info").touch(),
            lambda: (generation / "x").touch(),
            lambda: (generation / "x").mkdir(),
        ],
    }
    for code, calls in attempts.items():
        for number, call in enumerate(calls):
            with pytest.raises(OSError) as caught:
                call()
            assert caught.value.errno == code, number


# --- control files ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("attach", "x", errno.EINVAL),
        ("attach", "-5", errno.EINVAL),
        ("attach", "0", errno.EINVAL),
        pytest.param("attach", "9" * 5000, errno.EINVAL, id="attach-too-long"),
        pytest.param("attach", "9" * 50, errno.EINVAL, id="attach-long"),
        ("attach", "\n", errno.EINVAL),
        ("attach", "4194304", errno.ESRCH),
        ("detach", "1", errno.ESRCH),
        ("checkpoint", "please", errno.EINVAL),
        ("checkpoint", "name=a/b", errno.EINVAL),
        pytest.param("checkpoint", "name=" + "a" * 300, errno.ENAMETOOLONG, id="name-too-long"),
        ("checkpoint", "", None),
        ("checkpoint", "\n", errno.ESRCH),
        ("restore", "\n", errno.ENOENT),
        ("restore", "5", errno.ENOENT),
        ("restore", "0", errno.ERANGE),
        ("restore", "-1", errno.ERANGE),
        ("restore", "1 2", errno.EINVAL),
        ("restore", "clone kill", errno.EINVAL),
        ("restore", "'", errno.EINVAL),
        ("period", "-1", errno.ERANGE),
        ("period", "x", errno.EINVAL),
        ("period", "1 2", errno.EINVAL),
        ("period", "99999999999", errno.ERANGE),
        ("mode", "both", errno.EINVAL),
        ("backend", "disk", errno.EINVAL),
        ("retain", "-3", errno.ERANGE),
    ],
)
def test_bad_words_are_refused_with_their_reason(
    mounted: Mounted, file: str, text: str, code: int | None
) -> None:
    partition = mounted.partition(1, create=True)
    before = {name: (partition / name).read_text() for name in ("attach", "period", "mode")}
    assert failing_errno(partition / file, text) == code
    if code is not None:
        error = load(partition / "status")["last_error"]
        assert error.startswith(f"{file}: ")
        assert f"error: {error}\n" in (partition / "log").read_text()
    after = {name: (partition / name).read_text() for name in before}
    assert after == before
    assert os.listdir(partition / "generations") == []


def test_a_member_of_another_partition_is_refused(mounted: Mounted, spawn: Spawn) -> None:
    """x21: two partitions do not see each other."""
    process = spawn()
    one, two = (mounted.partition(oid, create=True) for oid in (1, 2))
    take(one, process.pid)
    assert failing_errno(two / "attach", str(process.pid)) == errno.EBUSY
    assert failing_errno(one / "attach", str(process.pid)) == errno.EBUSY
    assert "partition 1" in load(two / "status")["last_error"]
    assert (two / "attach").read_text() == ""
    assert os.listdir(two / "generations") == []
    assert "attached" not in (two / "log").read_text()


def test_a_command_is_taken_whole_or_not_at_all(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    pid = spawn().pid
    assert failing_errno(partition / "attach", f"{pid} 4194304") == errno.ESRCH
    assert (partition / "attach").read_text() == ""
    assert failing_errno(partition / "attach", f"{pid} x") == errno.EINVAL
    assert (partition / "attach").read_text() == ""


def test_a_generation_is_taken_by_touch_write_and_name(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    assert take(partition, spawn().pid) == 1
    (partition / "checkpoint").write_text("full name='two words'\n")
    subprocess.run(["sh", "-c", f"echo 1 > {partition}/checkpoint"], check=True)
    assert sorted(os.listdir(partition / "generations")) == ["1", "2", "3", "latest"]
    assert os.readlink(partition / "generations/latest") == "3"
    assert load(partition / "generations/2/info")["name"] == "two words"
    (partition / "generations/2").rmdir()
    assert sorted(os.listdir(partition / "generations")) == ["1", "3", "latest"]
    with pytest.raises(FileNotFoundError):
        (partition / "generations/2").rmdir()
    (partition / "restore").write_text("1 daemon\n")
    assert (partition / "restore").read_text().split()[0] == "1"


def test_fsync_waits_until_durable(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    take(partition, spawn().pid)
    with (partition / "checkpoint").open("r") as file:
        os.fsync(file.fileno())
    assert load(partition / "status")["durable"] == 1


def test_the_memory_backend_is_chosen_before_use(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    (partition / "backend").write_text("memory\n")
    take(partition, spawn().pid)
    assert failing_errno(partition / "backend", "slos") == errno.EBUSY
    size = mounted.store.stat().st_size
    for _ in range(5):
        os.utime(partition / "checkpoint")
    assert mounted.store.stat().st_size == size


def test_retain_thins(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    (partition / "retain").write_text("2\n")
    pid = spawn().pid
    for _ in range(4):
        take(partition, pid)
    assert sorted(os.listdir(partition / "generations")) == ["3", "4", "latest"]


# --- waiting ----------------------------------------------------------------------------------


def poll_once(poller: select.poll, seconds: float = 60.0) -> int:
    events = poller.poll(seconds * 1000)
    return events[0][1] if events else 0


@pytest.mark.parametrize("name", ["checkpoint", "status", "log"])
def test_a_waiter_wakes_at_a_new_generation(mounted: Mounted, spawn: Spawn, name: str) -> None:
    partition = mounted.partition(1, create=True)
    take(partition, spawn().pid)
    with (partition / name).open("rb", buffering=0) as file:
        poller = select.poll()
        poller.register(file, select.POLLIN)

        def settled() -> bool:
            os.pread(file.fileno(), 1 << 16, 0)
            return not poller.poll(50)

        wait_until(settled)
        with subprocess.Popen(["touch", str(partition / "checkpoint")]):
            assert poll_once(poller) == select.POLLIN
        with select.epoll() as epoll:
            epoll.register(file, select.EPOLLIN)
            assert epoll.poll(60)


def test_tail_follows_a_log(mounted: Mounted, spawn: Spawn) -> None:
    partition = mounted.partition(1, create=True)
    command = ["tail", "-n", "+1", "-s", "0.1", "-f", str(partition / "log")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tail:
        assert tail.stdout is not None
        assert "created" in tail.stdout.readline()
        take(partition, spawn().pid)
        assert "attached" in tail.stdout.readline()
        tail.kill()


def test_a_member_may_checkpoint_itself(make_mount: MakeMount, spawn: Spawn) -> None:
    """Its write returns first; the capture follows, and others' commands wait for it."""
    mounted = make_mount().mount(environment={"SLS_FAKE_DELAY": "2"})
    partition = mounted.partition(1, create=True)
    done = mounted.store.with_suffix(".done")
    steps = (
        f"echo $$ > {partition}/attach",
        f"touch {partition}/checkpoint",
        f"cat {partition}/checkpoint > {done}",
        "exec sleep 60",
    )
    spawn("sh", "-c", "; ".join(steps))
    wait_until(lambda: done.exists() and done.read_text())
    assert done.read_text() == "0\n"
    wait_until(lambda: (partition / "checkpoint").read_text() == "1\n")


# --- ordinary users ---------------------------------------------------------------------------

NOBODY = 65534


def as_nobody(command: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        ["bash", "-c", command],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_ordinary_user_has_his_own_partitions_only(public_mount: Mounted, spawn: Spawn) -> None:
    mounted = public_mount
    root_process = spawn()
    theirs = mounted.partition(1, create=True)
    own = mounted.partition(2)
    assert as_nobody(f"mkdir {own}").returncode == 0
    assert own.stat().st_uid == NOBODY
    assert as_nobody(f"ls {theirs}").returncode != 0
    assert as_nobody(f"touch {theirs}/checkpoint").returncode != 0
    assert as_nobody(f"rmdir {theirs}").returncode != 0
    refused = as_nobody(f"echo {root_process.pid} > {own}/attach")
    assert "not permitted" in refused.stderr
    assert "may trace" in load(own / "status")["last_error"]
    taken = as_nobody(f"sleep 5 & echo $! > {own}/attach && touch {own}/checkpoint && kill $!")
    assert taken.returncode == 0, taken.stderr
    assert (own / "checkpoint").read_text() == "1\n"


# --- many -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_ten_thousand_generations_are_listed(make_mount: MakeMount) -> None:
    mounted = make_mount()
    ObjectStore.create(mounted.store)
    with ObjectStore.open(mounted.store) as store:
        store.create_partition(1)
        for _ in range(10_000):
            with store.begin(1) as transaction:
                transaction.commit(wait=False)
    mounted.mount()
    generations = mounted.partition(1) / "generations"
    assert len(os.listdir(generations)) == 10_001
    assert (generations / "latest/info").exists()
