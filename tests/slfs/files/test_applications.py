"""Programs that lean on their file system, in files/: checkpointed under load, killed, rolled back, and whole."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.mounts import REAL, Mounted, has_ended, mounting, wait_until
from tests.slfs.conftest import Spawn, spawn
from tests.slfs.files.digest import digest
from tests.slfs.files.test_sqlite import WRITER

__all__ = ["spawn"]
pytestmark = [pytest.mark.root, pytest.mark.fuse]
PROJECT = Path(__file__).parents[3]
IS_LONG = os.environ.get("SLS_LONG") == "1"

# Whose log only grows: SQLite begins it anew else once it has a thousand pages.
LOGGING = WRITER.replace("journal_mode=wal", "wal_autocheckpoint=0; pragma journal_mode=wal")

# Builds again and again; counts what it has built.
BUILDER = """
cd "$1"
export TMPDIR="$1"  # the compiler's own files are in the tree as well
while make -s clean && make -s && ./program > out && read built < out && [ "$built" = 6 ]; do
    echo x >> built
done
echo failed > failed
"""
MAKEFILE = """
objects = main.o $(patsubst %,part%.o,1 2 3)
program: $(objects)
\t$(CC) -o $@ $(objects)
clean:
\trm -f program $(objects)
"""


@contextmanager
def restored(partition: Path, words: str) -> Iterator[list[int]]:
    """The processes of a generation, run again until the end of the block."""
    try:
        (partition / "restore").write_text(words)
    except OSError as error:
        raise AssertionError((partition / "log").read_text()) from error
    pids = [int(word) for word in (partition / "restore").read_text().split()[1:]]
    try:
        yield pids
    finally:
        end(pids)


def end(pids: list[int]) -> None:
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: all(map(has_ended, pids)))


def checkpoint(partition: Path) -> int:
    (partition / "checkpoint").write_text("recursive")
    return int((partition / "checkpoint").read_text())


def counts(database: Path) -> tuple[int, int]:
    with closing(sqlite3.connect(database)) as db:
        assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
        one, other = (
            int(db.execute(f"select count(*) from {table}").fetchone()[0])
            for table in ("one", "other")
        )
    return one, other


def test_a_database_in_wal_mode_goes_on_where_it_was(real_mount: Mounted, spawn: Spawn) -> None:
    partition = real_mount.partition(1, create=True)
    writer = spawn(sys.executable, "-c", LOGGING, str(partition / "files/db"))
    wal = partition / "files/db-wal"
    wait_until(lambda: wal.exists() and wal.stat().st_size > 50_000)
    (partition / "attach").write_text(str(writer.pid))
    checkpoint(partition)
    size = wal.stat().st_size
    wait_until(lambda: wal.stat().st_size > size + 50_000)
    writer.kill()
    writer.wait()
    lost, _ = counts(partition / "files/db")
    with restored(partition, "1 daemon") as pids:
        size = wal.stat().st_size
        wait_until(lambda: wal.stat().st_size > size + 50_000)
        end(pids)
    one, other = counts(partition / "files/db")
    assert one == other
    (partition / "restore").write_text("2")  # what the rollback replaced
    assert counts(partition / "files/db") == (lost, lost)


def git(*words: object, cwd: Path) -> str:
    named = ("-c", "user.name=a", "-c", "user.email=a@b", "-c", "safe.directory=*")
    command = ["git", *named, *map(str, words)]
    return subprocess.run(command, cwd=cwd, check=True, capture_output=True, text=True).stdout


def make_repository(place: Path) -> None:
    place.mkdir()
    git("init", "-q", "-b", "main", cwd=place)
    for number in range(3):
        for name in ("a", "b", f"c{number}"):
            (place / name).write_text(f"{name} {number}\n" * 500)
        git("add", "-A", cwd=place)
        git("commit", "-q", "-m", f"{number}", cwd=place)


@pytest.mark.skipif(shutil.which("git") is None, reason="git is missing")
def test_a_clone_rolled_back_is_whole(real_mount: Mounted, spawn: Spawn, tmp_path: Path) -> None:
    source = PROJECT
    if not IS_LONG:
        source = tmp_path / "source"
        make_repository(source)
    partition = real_mount.partition(1, create=True)
    files = partition / "files"
    git("clone", "-q", f"file://{source}", files / "clone", cwd=tmp_path)
    clone = files / "clone"
    (clone / "more").write_text("more\n")
    git("add", "-A", cwd=clone)
    git("commit", "-q", "-m", "more", cwd=clone)
    head = git("rev-parse", "HEAD", cwd=clone)
    before = digest(files)
    program = spawn()
    (partition / "attach").write_text(str(program.pid))
    checkpoint(partition)
    git("rm", "-q", "-r", ".", cwd=clone)
    git("commit", "-q", "-m", "nothing is left", cwd=clone)
    git("gc", "-q", "--prune=now", cwd=clone)
    program.kill()
    program.wait()
    with restored(partition, "1 daemon"):
        assert digest(files) == before
        assert git("rev-parse", "HEAD", cwd=clone) == head
        git("fsck", "--strict", "--full", cwd=clone)
        assert git("status", "--porcelain", cwd=clone) == ""


def write_program(place: Path) -> None:
    place.mkdir()
    (place / "Makefile").write_text(MAKEFILE)
    parts = range(1, 4)
    for number in parts:
        (place / f"part{number}.c").write_text(f"int part{number}(void) {{ return {number}; }}\n")
    declared = "".join(f"int part{number}(void);\n" for number in parts)
    added = " + ".join(f"part{number}()" for number in parts)
    main = f'#include <stdio.h>\n{declared}int main(void) {{ printf("%d\\n", {added}); }}\n'
    (place / "main.c").write_text(main)


@pytest.mark.skipif(shutil.which("make") is None, reason="make is missing")
def test_a_make_goes_on_where_it_was(real_mount: Mounted, spawn: Spawn) -> None:
    """Compilers and their half-written files come back together: what is built works."""
    partition = real_mount.partition(1, create=True)
    place = partition / "files/program"
    write_program(place)
    builder = spawn("sh", "-c", BUILDER, "sh", str(place))
    built = place / "built"
    wait_until(built.exists)
    (partition / "attach").write_text(str(builder.pid))
    rounds = 20 if IS_LONG else 1
    epochs = [checkpoint(partition) for _ in range(rounds)]
    os.killpg(builder.pid, signal.SIGKILL)
    builder.wait()
    for epoch in epochs[::-1]:
        wait_until(lambda: not group_exists(builder.pid))
        with restored(partition, f"{epoch} daemon") as pids:
            size = built.stat().st_size
            wait_until(lambda: built.stat().st_size > size + 2 or (place / "failed").exists())  # noqa: B023
            assert not (place / "failed").exists()
            os.killpg(pids[0], signal.SIGKILL)
    wait_until(lambda: not group_exists(builder.pid))


def group_exists(pgid: int) -> bool:
    try:
        os.killpg(pgid, 0)
    except ProcessLookupError:
        return False
    return True


# --- postgresql -------------------------------------------------------------------------------

AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups")
# The server and its load, until pgbench is told to end.
SERVER = """
cd "$1"
"$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= & server=$!
until psql -qh "$1" postgres -c 'select 1' > /dev/null 2>&1; do sleep 0.1; done
"$2/pgbench" -qih "$1" -s 2 postgres > init.log 2>&1
"$2/pgbench" -h "$1" -c 2 -T 10000 postgres > bench.log 2>&1
kill -INT $server
wait $server
"""
SUMS = """
select (select sum(abalance) from pgbench_accounts), (select sum(bbalance) from pgbench_branches),
(select sum(tbalance) from pgbench_tellers), (select coalesce(sum(delta), 0) from pgbench_history)
"""


def programs() -> Path | None:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pgbench"))
    return found[-1].parent if found else None


def psql(place: Path, query: str) -> str:
    command = ["psql", "-qAtXh", str(place), "-U", "postgres", "postgres", "-c", query]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def check_sums(place: Path) -> None:
    sums = psql(place, SUMS).split("|")
    assert len(set(sums)) == 1, sums


def as_postgres(*command: object) -> None:
    words = [*AS_POSTGRES, *map(str, command)]
    subprocess.run(words, check=True, capture_output=True, cwd="/", timeout=120)


def recovered(data: Path, place: Path, where: Path) -> None:
    """A copy of a generation's data directory is one that a server recovers from a crash."""
    as_postgres("cp", "-a", data, place / "data")
    (place / "data/postmaster.pid").unlink()
    control = (where / "pg_ctl", "-w", "-D", place / "data")
    as_postgres(*control, "-o", f"-k {place} -c listen_addresses=", "-l", place / "log", "start")
    try:
        check_sums(place)
    finally:
        as_postgres(*control, "stop")
    as_postgres(where / "pg_checksums", "--check", "-D", place / "data")


@pytest.mark.skipif(not IS_LONG, reason="a minute: SLS_LONG=1 runs it")
@pytest.mark.skipif(programs() is None, reason="postgresql is missing")
def test_a_postgresql_cluster_under_load_rolls_back_whole(spawn: Spawn) -> None:
    where = programs()
    assert where is not None
    with TemporaryDirectory(prefix="slfs-test-") as name, mounting(Path(name), REAL) as make:
        Path(name).chmod(0o755)
        partition = make().mount().partition(1)
        as_postgres("mkdir", partition)
        files = partition / "files"
        as_postgres(where / "initdb", "-k", "--auth=trust", "-D", files / "data")
        server = spawn(*AS_POSTGRES, "sh", "-c", SERVER, "sh", str(files), str(where))
        wait_until(lambda: (files / "bench.log").exists(), 60)
        (partition / "attach").write_text(str(server.pid))
        epochs = [checkpoint(partition) for _ in range(10)]
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
        for epoch in epochs[::3]:
            check_generation(partition, epoch, Path(name) / f"copy{epoch}", where)


def check_generation(partition: Path, epoch: int, copy: Path, where: Path) -> None:
    files = partition / "files"
    with restored(partition, f"{epoch} daemon") as pids:
        before = int(psql(files, "select count(*) from pgbench_history"))
        check_sums(files)
        wait_until(lambda: int(psql(files, "select count(*) from pgbench_history")) > before + 100)
        check_sums(files)
        end(pids)
        wait_until(lambda: not group_exists(pids[0]))
    copy.mkdir()
    shutil.chown(copy, "postgres", "postgres")
    recovered(partition / f"generations/{epoch}/files/data", copy, where)
