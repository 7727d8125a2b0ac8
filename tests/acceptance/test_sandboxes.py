"""Programs in namespaces of their own, as unshare(1) and bubblewrap make them, across SIGKILL and restore."""

import shutil
from itertools import pairwise
from pathlib import Path

import pytest

from tests.acceptance.job import Job
from tests.mounts import wait_until

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CYCLES = 3
NEEDS_BWRAP = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bwrap is missing; scripts/test.sh installs it"
)
LOOP = """hostname inside; n=0
while :; do n=$((n+1)); echo $n $$ $(hostname) $(ls /proc | grep -c '^[0-9]'); sleep 0.02; done
"""
COUNT = """
import os, time
with open("/tmp/state", "w") as state:
    for number in range(10**9):
        state.seek(0); state.write(str(number)); state.flush()
        print(number + 1, os.getpid(), open("/tmp/state").read() == str(number), flush=True)
        time.sleep(0.01)
"""
UNSHARE = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "--ipc"]
SANDBOX = [
    "bwrap", "--ro-bind", "/usr", "/usr", "--symlink", "usr/bin", "/bin", "--symlink", "usr/lib", "/lib",
    "--symlink", "usr/lib64", "/lib64", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--die-with-parent",
]  # fmt: skip


def counted(job: Job) -> list[list[str]]:
    """The program's own lines: who waits outside for it may say that it was killed."""
    return [line.split() for line in job.lines() if line[:1].isdigit()]


def has_no_gap(job: Job) -> bool:
    """A restore goes back to a line that was written, never over one that was not."""
    numbers = [int(words[0]) for words in counted(job)]
    return all(number <= before + 1 for before, number in pairwise([0, *numbers]))


def cycle(job: Job) -> None:
    for _ in range(CYCLES):
        job.wait_more_lines(5)
        job.checkpoint()
        job.wait_more_lines(3)
        job.kill()
        job.restore()
        job.wait_more_lines(5)
    assert has_no_gap(job)


def facts(job: Job) -> set[tuple[str, ...]]:
    """What each line says besides its number."""
    return {tuple(words[1:]) for words in counted(job)}


def only_child(pid: int) -> int:
    def children() -> str:
        return Path(f"/proc/{pid}/task/{pid}/children").read_text()

    wait_until(lambda: len(children().split()) == 1)
    return int(children())


def test_a_shell_in_namespaces(job: Job) -> None:
    """The whole tree, with the unshare(1) that waits for it."""
    job.start(*UNSHARE, "bash", "-c", LOOP)
    cycle(job)
    assert {fact[:2] for fact in facts(job)} == {("1", "inside")}


def test_the_first_process_alone(job: Job) -> None:
    """Its parent is none of the partition's."""
    job.start(*UNSHARE, "--kill-child", "bash", "-c", LOOP, attach=False)
    job.wait_more_lines(3)
    job.pid = only_child(job.pid)
    job.attach()
    cycle(job)
    assert {fact[:2] for fact in facts(job)} == {("1", "inside")}


def test_a_pid_namespace_without_its_first_process(job: Job) -> None:
    job.start(*UNSHARE, "bash", "-c", "sleep 1000 & wait", attach=False)
    job.pid = only_child(only_child(job.pid))
    job.attach()
    _, words = job.refusal("checkpoint", "")
    assert "a pid namespace whose first process is not in the partition" in words


@NEEDS_BWRAP
@pytest.mark.parametrize(
    "options",
    [
        [],
        ["--unshare-pid"],
        ["--unshare-pid", "--unshare-ipc", "--unshare-uts"],
        ["--unshare-user", "--uid", "1000", "--unshare-pid", "--unshare-net"],
    ],
)
def test_bubblewrap(job: Job, options: list[str]) -> None:
    """A root of its own with a tmpfs in it, in which the program writes."""
    job.start(*SANDBOX, *options, "/usr/bin/python3", "-c", COUNT)
    cycle(job)
    assert {fact[1] for fact in facts(job)} == {"True"}


@NEEDS_BWRAP
def test_bubblewrap_of_a_user(job: Job) -> None:
    """Who is not root gets a user namespace, and with /dev another one in that."""
    user = ["setpriv", "--reuid=1000", "--regid=1000", "--clear-groups"]
    job.start(*user, *SANDBOX, "--unshare-pid", "/usr/bin/python3", "-c", COUNT)
    cycle(job)
    assert {fact[1] for fact in facts(job)} == {"True"}
