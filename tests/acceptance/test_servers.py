"""Servers with their clients: each keeps what it knows across three cycles of checkpoint, SIGKILL and restore.

A client outside of the tree sees its connection reset, and comes again; one inside goes on.
"""

import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from http.client import HTTPConnection
from pathlib import Path
from typing import Final

import pytest

from tests.acceptance.job import Job
from tests.acceptance.test_real_programs import CYCLES, needs

pytestmark = [pytest.mark.root, pytest.mark.fuse]


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def is_listening(port: int) -> bool:
    with suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
        return True
    return False


# --- memcached --------------------------------------------------------------------------------


class Memcached:
    """One connection to a memcached."""

    def __init__(self, port: int) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port))
        self._file = self._socket.makefile("rwb")

    def ask(self, words: bytes) -> bytes:
        self._file.write(words + b"\r\n")
        self._file.flush()
        return self._file.readline()

    def get(self, key: str) -> bytes:
        answer = self.ask(f"get {key}".encode())
        if not answer.startswith(b"VALUE"):
            return b""
        value = self._file.readline()
        assert self._file.readline() == b"END\r\n"
        return value.rstrip()

    def put(self, key: str, value: bytes) -> None:
        assert self.ask(b"set %s 0 0 %d\r\n%s" % (key.encode(), len(value), value)) == b"STORED\r\n"

    def is_cut(self) -> bool:
        try:
            return self.ask(b"version") == b""
        except ConnectionError:
            return True

    def close(self) -> None:
        with suppress(ConnectionError):
            self._file.close()
        self._socket.close()


@needs("memcached")
def test_x27_memcached(job: Job) -> None:
    port = free_port()
    job.start("memcached", "-u", "root", "-l", "127.0.0.1", "-p", port, "-t", "4")
    job.wait_for(partial(is_listening, port), "memcached")
    client = Memcached(port)
    for number in range(2000):
        client.put(f"key{number}", b"%d" % number**2)
    for cycle in range(CYCLES):
        client.put("cycle", b"%d" % cycle)
        job.checkpoint()
        client.put("cycle", b"later")
        job.kill()
        job.restore()
        assert client.is_cut()
        client.close()
        client = Memcached(port)
        assert client.get("cycle") == b"%d" % cycle
        for number in range(2000):
            assert client.get(f"key{number}") == b"%d" % number**2
    client.close()
    os.kill(job.pid, signal.SIGTERM)
    assert job.wait_end() == 0


# --- nginx ------------------------------------------------------------------------------------

NGINX: Final = """
daemon off;
worker_processes 2;
pid {directory}/nginx.pid;
error_log stderr notice;
events {{ worker_connections 64; }}
http {{
    access_log {directory}/access.log;
    client_body_temp_path {directory}/body;
    server {{
        listen 127.0.0.1:{port} reuseport;
        root {directory}/www;
        location /status {{ return 200 "$connection_requests\n"; }}
    }}
}}
"""


def fetched(port: int, name: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/{name}", timeout=60) as answer:
        body: bytes = answer.read()
    return body


@needs("nginx")
def test_x27_nginx_with_workers(job: Job) -> None:
    port = free_port()
    pages = job.directory / "www"
    pages.mkdir()
    pages.chmod(0o755)
    (pages / "page").write_bytes(bytes(range(256)) * 4096)
    configuration = job.directory / "nginx.conf"
    configuration.write_text(
        "user root;" + NGINX.format(directory=job.directory, port=port), encoding="ascii"
    )
    job.start("nginx", "-c", configuration, "-p", job.directory, "-e", "stderr")
    job.wait_for(lambda: len(job.members()) == 3, "nginx")
    job.wait_for(partial(is_listening, port), "its workers")
    for cycle in range(CYCLES):
        kept = HTTPConnection("127.0.0.1", port)
        kept.request("GET", "/status")
        assert kept.getresponse().read() == b"1\n"
        members = len(job.members())
        job.checkpoint()
        job.kill()
        job.restore()
        assert len(job.members()) == members == 3
        with pytest.raises(ConnectionError):
            kept.request("GET", "/status")
            kept.getresponse().read()
        kept.close()
        for _ in range(20):
            assert fetched(port, "page") == (pages / "page").read_bytes()
        (pages / f"new{cycle}").write_text("new")
        assert fetched(port, f"new{cycle}") == b"new"
    os.kill(job.pid, signal.SIGHUP)  # new workers, the old ones end
    job.wait_for(lambda: "gracefully shutting down" in job.text(), "new workers")
    assert fetched(port, "new0") == b"new"
    os.kill(job.pid, signal.SIGQUIT)
    assert job.wait_end() == 0


# --- postgresql -------------------------------------------------------------------------------


def postgres_programs() -> Path | None:
    """Where initdb and its kin are: Debian has them in a directory of the version."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return found[-1].parent if found else None


@contextmanager
def database_cluster(programs: Path) -> Iterator[Path]:
    """A fresh cluster that the user postgres can reach; its socket is in it."""
    owner = pwd.getpwnam("postgres")
    directory = Path(tempfile.mkdtemp(prefix="sls-test-postgres-"))
    try:
        os.chown(directory, owner.pw_uid, owner.pw_gid)
        command = [f"{programs}/initdb", "--no-sync", "--auth=trust", "-D", f"{directory}/data"]
        subprocess.run([*as_postgres(), *command], check=True, capture_output=True, cwd="/")
        yield directory
    finally:
        shutil.rmtree(directory)


def as_postgres() -> list[str]:
    return ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups"]


BOTH: Final = """
cd "$1"
"$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c jit=off & server=$!
until psql -qh "$1" postgres -c 'select 1' > /dev/null 2>&1; do sleep 0.1; done
psql -qAth "$1" -v ON_ERROR_STOP=1 postgres
status=$?
kill -INT $server
wait $server
exit $status
"""


@pytest.mark.skipif(postgres_programs() is None, reason="postgresql is missing")
@needs("psql")
def test_x27_postgresql_with_a_client_in_a_transaction(job: Job) -> None:
    """Server and psql in one partition; psql reads its words from a pipe whose other end stays outside."""
    programs = postgres_programs()
    assert programs is not None
    read_end, write_end = os.pipe()

    def say(words: str) -> None:
        os.write(write_end, f"{words};\n".encode())

    with database_cluster(programs) as directory:
        try:
            job.start(*as_postgres(), "sh", "-c", BOTH, "sh", directory, programs, stdin=read_end)
            say("CREATE TABLE rows (number int PRIMARY KEY, words text)")
            say("BEGIN")
            for cycle in range(CYCLES):
                first = cycle * 1000
                say(
                    f"INSERT INTO rows SELECT i, md5(i::text) FROM generate_series({first}, {first + 999}) i"
                )
                say("SELECT 'rows', count(*) FROM rows")
                job.wait_for(lambda: f"rows|{first + 1000}" in job.lines(), "the transaction")  # noqa: B023
                job.checkpoint()
                job.kill()
                job.restore()
                assert count_outside(directory) == "0"
            say("COMMIT")
            say("SELECT 'sum', sum(number), count(DISTINCT words) FROM rows")
            job.wait_for(lambda: "sum|4498500|3000" in job.lines(), "the sum")
            assert count_outside(directory) == "3000"
            say("VACUUM FULL rows")
            say("CHECKPOINT")
            os.close(write_end)
            write_end = -1
            assert job.wait_end() == 0
        finally:
            os.close(read_end)
            if write_end >= 0:
                os.close(write_end)
            job.end()


def count_outside(directory: Path) -> str:
    """What another session sees of the table."""
    command = ["psql", "-qAtXh", str(directory), "-U", "postgres", "postgres", "-c"]
    query = "SELECT count(*) FROM rows"
    found = subprocess.run([*command, query], capture_output=True, text=True, check=True)
    return found.stdout.strip()
