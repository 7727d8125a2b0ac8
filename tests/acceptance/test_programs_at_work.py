"""Interpreters, editors and servers at work: each goes round after round, and checks what it computes, across three
cycles of checkpoint, SIGKILL and restore. Everything that it speaks to is inside its tree.
"""

import errno
import random
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.job import READY, Job
from tests.acceptance.test_real_programs import CYCLES, has_line, needs
from tests.sls.driver import PROGRAMS

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def works_on(job: Job, *command: object) -> None:
    """A program that prints `ready`, then a line each round, until its last argument, the go file, is there."""
    job.start(*command)
    job.wait_ready()
    for _ in range(CYCLES):
        job.wait_more_lines(2)
        job.checkpoint()
        job.wait_more_lines(1)
        job.kill()
        job.restore()
        job.wait_more_lines(2)
    (job.directory / "go").touch()
    assert (job.wait_end(), job.text().splitlines()[-1]) == (0, "ok"), job.text()[-2000:]
    assert job.text().startswith(READY)


def works_on_in_python(job: Job, program: str, *case: object) -> None:
    works_on(job, sys.executable, PROGRAMS / program, job.directory / "go", *case)


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_x27_python_multiprocessing(job: Job, method: str) -> None:
    works_on_in_python(job, "multiprocess.py", method)


def test_x27_python_asyncio(job: Job) -> None:
    works_on_in_python(job, "event_loop.py")


@needs("redis-server")
def test_x27_redis_with_its_client(job: Job) -> None:
    """One connection, under load, both ends inside."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    works_on_in_python(job, "redis_load.py", port)


def test_x27_bash_on_a_terminal(job: Job) -> None:
    works_on_in_python(job, "shell_work.py")


@needs("vim")
def test_x27_vim(job: Job) -> None:
    """Its buffer, its undo and its swap file, at rest between the keys."""
    go = job.directory / "go"
    job.start(sys.executable, PROGRAMS / "editor.py", go, *range(CYCLES + 1))
    for cycle in range(CYCLES):
        job.wait_for(partial(has_line, job, str(20 * (cycle + 1))), "twenty lines more")
        job.checkpoint()
        job.kill()
        job.restore()
        Path(f"{go}.{cycle}").touch()
    Path(f"{go}.{CYCLES}").touch()
    assert (job.wait_end(), job.lines()[-1]) == (0, "ok"), job.text()


@needs("perl")
def test_x27_perl(job: Job) -> None:
    works_on(job, "perl", PROGRAMS / "work.pl", job.directory / "go")


@needs("node")
def test_x27_node(job: Job) -> None:
    works_on(job, "node", PROGRAMS / "timers.mjs", job.directory / "go")


@needs("java")
@needs("javac")
def test_x27_java(job: Job, tmp_path: Path) -> None:
    subprocess.run(["javac", "-d", str(tmp_path), PROGRAMS / "Pool.java"], check=True)
    works_on(job, "java", "-cp", tmp_path, "Pool", job.directory / "go")


# --- a compressor, a debugger -----------------------------------------------------------------


@needs("xz")
def test_x27_xz_with_threads(job: Job) -> None:
    """What it writes is what it writes undisturbed, to the byte."""
    words = random.Random(27)
    text = b"".join(b"%d %x\n" % (number, words.getrandbits(64)) for number in range(300_000))
    (job.directory / "text").write_bytes(text)
    command = ["xz", "-T2", "--block-size=256KiB", "-6", "-k", "-c", str(job.directory / "text")]
    undisturbed = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout
    packed = job.directory / "text.xz"
    with packed.open("wb") as output:
        job.start(*command, stdout=output.fileno())
    for cycle in range(CYCLES):
        wanted = len(undisturbed) * (cycle + 1) // (CYCLES + 2)
        job.wait_for(partial(has_size, packed, wanted), f"{wanted} bytes")
        job.checkpoint()
        job.kill()
        job.restore()
    job.wait_for(lambda: job.status()["exits"], "its end")
    assert job.wait_end() == 0
    assert packed.read_bytes() == undisturbed


def has_size(file: Path, size: int) -> bool:
    return file.stat().st_size >= size


@needs("gdb")
def test_x26_gdb_and_its_inferior_are_refused(job: Job) -> None:
    """Neither notices."""
    go = job.directory / "go"
    program = f"echo $$; while ! [ -e {go} ]; do :; done; exit 7"
    job.start(
        "gdb",
        "-q",
        "-batch",
        "-ex",
        "run",
        "-ex",
        "print $_exitcode",
        "--args",
        "sh",
        "-c",
        program,
    )
    job.wait_for(lambda: any(line.isdigit() for line in job.lines()), "the inferior")
    code, reason = job.refusal("checkpoint", "")
    inferior = next(int(line) for line in job.lines() if line.isdigit())
    assert (code, f"pid {inferior} is traced by pid {job.pid}" in reason) == (errno.EBUSY, True)
    go.touch()
    assert job.wait_end() == 0
    assert job.lines()[-1] == "$1 = 7"
