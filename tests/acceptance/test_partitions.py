"""Who is a member, who is in the way, and what is refused: the application goes on, the generations stay usable."""

import errno
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Final

import pytest

from sls import syscalls
from tests.acceptance.conftest import Check, MakeJob, StartSums
from tests.acceptance.job import READY, Job
from tests.mounts import is_alive
from tests.sls.driver import command_of

pytestmark = [pytest.mark.root, pytest.mark.fuse]

WAIT_THEN: Final = "while [ ! -e enter ]; do sleep 0.01; done; "


def start_shell(job: Job, binaries: Path, command: str) -> None:
    """A shell that waits for the file `enter`; `$@` is then the command of the sums."""
    sums = (*command_of("sums.c", binaries), job.directory / "go", 10**9, 500)
    job.start("sh", "-c", WAIT_THEN + command, "sh", *sums)


def test_x20_exec_inside_a_partition(job: Job, binaries: Path, ends_without_a_gap: Check) -> None:
    start_shell(job, binaries, 'exec "$@"')
    assert job.checkpoint() == 1
    (job.directory / "enter").touch()
    job.wait_more_lines(5)
    assert job.checkpoint() == 2
    names = [
        (job.partition / f"generations/{epoch}/processes/{job.pid}/comm").read_text()
        for epoch in (1, 2)
    ]
    assert names == ["sh\n", "sums\n"]
    for epoch in (2, 1):
        job.kill()
        job.restore(epoch)
        job.wait_more_lines(5)
    ends_without_a_gap(job)


def test_a_child_born_later_is_a_member(
    job: Job, binaries: Path, ends_without_a_gap: Check
) -> None:
    start_shell(job, binaries, '"$@"; exit $?')
    (job.directory / "enter").touch()
    job.wait_more_lines(5)
    job.checkpoint()
    members = job.members()
    assert (len(members), members[0]) == (2, job.pid)
    job.kill()
    assert job.restore() == members
    job.wait_more_lines(5)
    ends_without_a_gap(job)


def test_x21_two_partitions_do_not_see_each_other(
    make_job: MakeJob, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    one, two = (start_sums(make_job()) for _ in range(2))
    for job, other in ((one, two), (two, one)):
        job.checkpoint()
        job.kill()
        assert other.members() == [other.pid]
        other.wait_more_lines(5)
        job.restore()
        assert other.members() == [other.pid]
        assert os.listdir(job.partition / "generations/latest/processes") == [str(job.pid)]
    code, reason = one.refusal("attach", two.pid)
    assert (code, f"partition {two.partition.name}" in reason) == (errno.EBUSY, True)
    ends_without_a_gap(one)
    ends_without_a_gap(two)


# --- in the way -------------------------------------------------------------------------------


@contextmanager
def stranger(pid: int) -> Iterator[None]:
    """A `sleep` that has that number."""
    if not syscalls.clone_child(pid):
        os.execv("/bin/sleep", ["sleep", "60"])
    try:
        yield
        assert is_alive(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, syscalls.WALL)


def test_x22_a_pid_that_a_stranger_has(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    start_sums(job)
    job.checkpoint()
    job.kill()
    with stranger(job.pid):
        job.wait_for(lambda: name_of(job.pid) == "sleep", "the stranger")
        for words in ("daemon", "daemon kill"):
            code, reason = job.refusal("restore", words)
            assert code == errno.EEXIST
            assert f"pid {job.pid} is in use by sleep" in reason
        assert job.members() == []
    job.restore()
    ends_without_a_gap(job)


def name_of(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def test_kill_replaces_a_live_member(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    start_sums(job)
    job.checkpoint()
    job.wait_more_lines(5)
    code, _ = job.refusal("restore", "daemon")
    assert code == errno.EEXIST
    job.wait_more_lines(5)
    waiting = threading.Thread(target=job.forget_child)
    waiting.start()
    job.restore("kill")
    waiting.join()
    job.wait_more_lines(5)
    job.restore("kill")
    ends_without_a_gap(job)


def test_a_file_that_is_gone_is_named(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    """Nothing is half restored, and the generation is usable again when the file is back."""
    start_sums(job)
    job.checkpoint()
    job.kill()
    aside = job.output.rename(job.directory / "aside")
    code, reason = job.refusal("restore", "daemon")
    assert (code, str(job.output) in reason) == (errno.ENOENT, True), reason
    assert not is_alive(job.pid)
    assert job.members() == []
    aside.rename(job.output)
    job.restore()
    ends_without_a_gap(job)


# --- refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["userfaultfd", "io_uring", "fuse"])
def test_x26_refused_by_name(job: Job, binaries: Path, kind: str) -> None:
    go = job.directory / "go"
    job.start(*command_of("refused.c", binaries), go, kind)
    job.wait_ready()
    for _ in range(2):
        code, reason = job.refusal("checkpoint", "")
        assert code == errno.EOPNOTSUPP
        assert f"pid {job.pid}: fd 3: " in reason
        assert kind in reason
    assert (job.partition / "checkpoint").read_text() == "0\n"
    go.touch()
    assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")


def test_a_ring_is_waited_for(job: Job, binaries: Path) -> None:
    """A request of io_uring(7) that ends within a second delays the checkpoint; one that does not refuses it."""
    job.start(*command_of("io_uring_refused.c", binaries), job.directory / "go", "for a while")
    job.wait_ready()
    assert job.checkpoint() == 1


def test_x26_a_ring_with_a_request_under_way_is_refused(job: Job, binaries: Path) -> None:
    job.start(*command_of("io_uring_refused.c", binaries), job.directory / "go", "under way")
    job.wait_ready()
    code, reason = job.refusal("checkpoint", "")
    assert code == errno.EAGAIN
    assert "requests are under way" in reason
    (job.directory / "go").touch()
    assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")


# --- generations that go --------------------------------------------------------------------


def newest_of(job: Job) -> int:
    return int((job.partition / "checkpoint").read_text())


def test_the_newest_is_deleted_under_continuous_deltas(
    job: Job, start_sums: StartSums, ends_without_a_gap: Check
) -> None:
    """What would build on it is taken in full: no checkpoint fails, and every generation is whole."""
    start_sums(job)
    job.write("mode", "delta")
    job.write("period", 10)
    for _ in range(20):
        newest = job.checkpoint()
        os.rmdir(job.partition / f"generations/{newest}")
        job.wait_for(partial(is_newer, job, newest), "a periodic generation")
        newest = newest_of(job)
        with suppress(FileNotFoundError):
            os.rmdir(job.partition / f"generations/{newest}")
        job.wait_for(partial(is_newer, job, newest), "a periodic generation")
    assert " error: " not in job.log()
    assert job.status()["state"] == "continuous"
    job.write("period", 0)
    job.kill()
    job.restore()
    job.wait_more_lines(5)
    ends_without_a_gap(job)


def is_newer(job: Job, epoch: int) -> bool:
    return newest_of(job) > epoch


# --- ends -------------------------------------------------------------------------------------


def test_one_that_ends_at_once_is_told_of(job: Job) -> None:
    """Its end may come before the restore has answered."""
    job.start("sh", "-c", "while ! [ -e go ]; do :; done; exit 3")
    job.checkpoint()
    job.kill()
    (job.directory / "go").touch()
    for _ in range(5):
        job.restore()
        assert job.wait_end() == 3


def test_restore_with_kill_over_one_that_forks_in_a_loop(job: Job) -> None:
    """None of its children escapes, to keep the number of their session in use."""
    job.start("sh", "-c", "while :; do /bin/true | /bin/true; done")
    job.checkpoint()
    job.kill()
    job.restore()
    for _ in range(5):
        job.restore("kill")


def test_a_removed_directory_is_back_for_whom_holds_it(job: Job) -> None:
    """The kernel remembers a directory that was removed as long as anybody has it open."""
    folder = job.partition / "files" / "folder"
    folder.mkdir()
    job.start("sleep", 1000)
    job.checkpoint()
    held = os.open(folder, os.O_RDONLY)
    try:
        for _ in range(2):
            folder.rmdir()
            job.kill()
            job.restore()
            (folder / "file").write_text("made")
            assert (folder / "file").read_text() == "made"
            (folder / "file").unlink()
    finally:
        os.close(held)


def start_sparse(job: Job, size: int) -> None:
    program = command_of("sparse.py", Path())
    job.start(*program, job.directory / "go", job.partition, size)
    job.wait_ready()


def test_holes_of_a_deleted_file_stay_holes(job: Job) -> None:
    start_sparse(job, 100 << 20)
    job.checkpoint()
    assert job.info()["logical_bytes"] < 50 << 20
    job.kill()
    job.restore()
    (job.directory / "go").touch()
    assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")


def test_x26_a_deleted_file_with_terabytes_of_holes(job: Job) -> None:
    start_sparse(job, 5 << 40)
    code, reason = job.refusal("checkpoint", "")
    assert (code, "which of them are holes" in reason) == (errno.EOPNOTSUPP, True)
    (job.directory / "go").touch()
    assert (job.wait_end(), job.text()) == (0, f"{READY}ok\n")
