"""Each case of POSIX gives on `files/` what it gives on the machine's own file system, for three users."""

import json
import os
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from tests.slfs.files.run_cases import cases

pytestmark = [pytest.mark.root, pytest.mark.fuse]

PROJECT = Path(__file__).parents[3]
USERS = (0, 65534, 4321)
# Set-user-ID and set-group-ID files of a group that no user of ours is in, for all to write to.
WRITABLE = {"w4777": 0o4777, "w2777": 0o2777, "w2767": 0o2767, "w6766": 0o6766}
Outcomes = dict[str, Any]


def prepare(directory: Path) -> None:
    """Files of root's that other users come upon."""
    place = directory / "by-root"
    place.mkdir()
    (place / "secret").write_text("s")
    (place / "secret").chmod(0o600)
    (place / "public").write_text("p")
    (place / "public").chmod(0o644)
    (place / "writable").write_text("w")
    (place / "writable").chmod(0o666)
    for name, mode in (("timed", 0o644), ("timed-by-all", 0o666)):
        (place / name).touch()
        (place / name).chmod(mode)
    for name, mode in WRITABLE.items():
        (place / name).write_bytes(b"123")
        os.chown(place / name, 0, 4242)
        (place / name).chmod(mode)
    (place / "closed").mkdir()
    (place / "closed/f").write_text("f")
    (place / "closed").chmod(0o700)
    (place / "open").mkdir()
    (place / "open/d").mkdir()
    (place / "open").chmod(0o777)
    (place / "of-group").mkdir()
    os.chown(place / "of-group", 0, 4242)
    (place / "of-group").chmod(stat.S_ISGID | 0o777)
    (place / "sticky").mkdir()
    (place / "sticky").chmod(stat.S_ISVTX | 0o777)
    (place / "sticky/f").write_text("f")
    (place / "sticky/d").mkdir()


def outcomes(directory: Path, uid: int) -> Outcomes:
    done = subprocess.run(
        [sys.executable, "-m", "tests.slfs.files.run_cases", str(directory), str(uid)],
        cwd=PROJECT,
        capture_output=True,
        text=True,
        check=True,
    )
    found: Outcomes = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module", params=USERS, ids=lambda uid: f"uid{uid}")
def both(request: pytest.FixtureRequest, tree: Path) -> Iterator[tuple[Outcomes, Outcomes]]:
    """What came of all cases there and here."""
    with TemporaryDirectory(prefix="slfs-twin-") as name:
        place = tree / f"user-{request.param}"
        place.mkdir()
        for directory in (Path(name), place):
            prepare(directory)
            os.chmod(directory, 0o755)
        yield outcomes(Path(name), request.param), outcomes(place, request.param)


@pytest.mark.parametrize("name", cases, ids=str)
def test_case(both: tuple[Outcomes, Outcomes], name: str) -> None:
    there, here = both
    assert here[name] == there[name]
