"""A database under load in files/: each generation's copy of it is whole."""

import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.mounts import Mounted, wait_until
from tests.slfs.conftest import Spawn, spawn

__all__ = ["spawn"]
pytestmark = [pytest.mark.root, pytest.mark.fuse]

WRITER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1])
db.executescript("pragma journal_mode=wal")
db.execute("create table one(a integer primary key, b text)")
db.execute("create table other(a)")
count = 0
while True:
    count += 1
    with db:
        db.execute("insert into one values (?, ?)", (count, "x" * 200))
        db.execute("insert into other values (?)", (count,))
"""


def test_a_database_in_wal_mode_is_whole_in_each_generation(
    real_mount: Mounted, spawn: Spawn, tmp_path: Path
) -> None:
    partition = real_mount.partition(1, create=True)
    writer = spawn(sys.executable, "-c", WRITER, str(partition / "files/db"))
    wal = partition / "files/db-wal"
    wait_until(lambda: wal.exists() and wal.stat().st_size > 50_000)
    (partition / "attach").write_text(str(writer.pid))
    (partition / "period").write_text("100")
    (partition / "checkpoint").touch()
    wait_until(lambda: int((partition / "checkpoint").read_text()) > 4)
    (partition / "period").write_text("0")
    writer.kill()
    counts = []
    for epoch in (1, 2, 4):
        copy = tmp_path / str(epoch)
        shutil.copytree(partition / f"generations/{epoch}/files", copy)
        with closing(sqlite3.connect(copy / "db")) as db:
            assert db.execute("pragma integrity_check").fetchall() == [("ok",)]
            one, other = (
                db.execute(f"select count(*) from {table}").fetchone()[0]
                for table in ("one", "other")
            )
        assert one == other
        counts.append(one)
    assert counts == sorted(counts)
    assert counts[0] > 0
