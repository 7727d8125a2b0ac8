"""Programs of this machine, not written for it: each does its work across checkpoint, SIGKILL and restore."""

import os
import shutil
import socket
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.job import Job
from tests.sls.driver import PROGRAMS

pytestmark = [pytest.mark.root, pytest.mark.fuse]

CYCLES = 3
KEYS = 100_000
KEYS_A_REQUEST = 1000


def needs(program: str) -> pytest.MarkDecorator:
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing, reason=f"{program} is missing; scripts/test.sh installs it")


# --- python3 ----------------------------------------------------------------------------------


def has_line(job: Job, line: str) -> bool:
    return line in job.lines()


def test_python_with_100_mib_and_dictionaries(job: Job) -> None:
    """A checksum under way comes out right after three restores."""
    program = PROGRAMS / "checksum.py"
    command = [sys.executable, str(program), "0"]
    undisturbed = subprocess.run(command, capture_output=True, text=True, check=True)
    job.start(sys.executable, program, "0.08")
    for piece in (10, 30, 50):
        job.wait_for(partial(has_line, job, str(piece)), f"piece {piece}")
        job.checkpoint()
        job.wait_more_lines(3)
        job.kill()
        job.restore()
    assert job.wait_end() == 0
    assert job.lines()[-1] == undisturbed.stdout.splitlines()[-1]


# --- redis ------------------------------------------------------------------------------------


class Redis:
    """A redis-server with a client that speaks to it anew each time."""

    def __init__(self, job: Job) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = str(free.getsockname()[1])
        job.start("redis-server", "--port", self.port, "--save", "", "--bind", "127.0.0.1")
        job.wait_for(lambda: "Ready to accept" in job.text(), "redis-server")

    def cli(self, *arguments: str, words: str = "") -> str:
        command = ["redis-cli", "-p", self.port, *arguments]
        outcome = subprocess.run(command, input=words, capture_output=True, text=True, check=True)
        return outcome.stdout

    def fill(self) -> None:
        words = "".join(f"SET key:{number} {number * number}\r\n" for number in range(KEYS))
        assert "errors: 0" in self.cli("--pipe", words=words)

    def read_all(self) -> list[str]:
        requests = (
            "MGET " + " ".join(f"key:{number}" for number in range(start, start + KEYS_A_REQUEST))
            for start in range(0, KEYS, KEYS_A_REQUEST)
        )
        return self.cli(words="\n".join(requests)).split()


@needs("redis-server")
@needs("redis-cli")
def test_x27_redis_keeps_its_keys(job: Job) -> None:
    redis = Redis(job)
    redis.fill()
    wanted = [str(number * number) for number in range(KEYS)]
    for cycle in range(CYCLES):
        job.checkpoint()
        redis.cli("FLUSHALL")
        job.kill()
        job.restore()
        assert redis.read_all() == wanted
        assert redis.cli("SET", f"new:{cycle}", "value") == "OK\n"
        assert redis.cli("GET", f"new:{cycle}") == "value\n"
    assert redis.cli("DBSIZE") == f"{KEYS + CYCLES}\n"
    redis.cli("SHUTDOWN", "NOSAVE")
    assert job.wait_end() == 0


# --- sqlite -----------------------------------------------------------------------------------


def another_writer(database: Path) -> str:
    """What a program hears that wants to write meanwhile."""
    command = ["sqlite3", str(database), "BEGIN IMMEDIATE; ROLLBACK;"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stderr


@needs("sqlite3")
def test_x27_sqlite_commits_a_transaction_that_was_open(job: Job, tmp_path: Path) -> None:
    """Its words come through a pipe whose other end stays outside."""
    read_end, write_end = os.pipe()
    database = tmp_path / "rows.db"
    try:
        job.start("sqlite3", "-batch", database, stdin=read_end)
        statements = [
            "CREATE TABLE rows (number INTEGER PRIMARY KEY, words TEXT);",
            "BEGIN;",
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000)",
            "INSERT INTO rows SELECT i, hex(i * i) FROM n;",
            "SELECT 'in transaction', count(*) FROM rows;\n",
        ]
        os.write(write_end, "\n".join(statements).encode())
        job.wait_for(lambda: "in transaction|20000" in job.text(), "the open transaction")
        for _ in range(CYCLES):
            job.checkpoint()
            job.kill()
            job.restore()
            assert "database is locked" in another_writer(database)
        os.write(write_end, b"COMMIT;\nPRAGMA integrity_check;\n.quit\n")
        assert job.wait_end() == 0
    finally:
        os.close(read_end)
        os.close(write_end)
    assert job.lines() == ["in transaction|20000", "ok"]
    query = "PRAGMA integrity_check; SELECT count(*), sum(number), min(words) FROM rows;"
    found = subprocess.run(["sqlite3", database, query], capture_output=True, text=True, check=True)
    assert found.stdout.splitlines() == ["ok", "20000|200010000|31"]
