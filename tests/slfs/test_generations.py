"""Generations as people look into them: memory by address, core files, ordinary tools."""

import errno
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path

import pytest

from slos.objstore import ObjectStore
from sls.image import MANIFEST_OBJECT
from tests.mounts import MakeMount
from tests.slfs.history import History, looked_into, take

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.fixture(scope="module")
def history() -> Iterator[History]:
    with looked_into() as found:
        yield found


def run(*command: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [*map(str, command)],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def failing_errno(memory: int, length: int, address: int) -> int | None:
    try:
        os.pread(memory, length, address)
    except OSError as error:
        return error.errno
    return None


@pytest.fixture
def memory(history: History) -> Iterator[int]:
    descriptor = os.open(history.process(1) / "mem", os.O_RDONLY)
    yield descriptor
    os.close(descriptor)


# --- mem --------------------------------------------------------------------------------------


def test_every_mapping_reads_as_it_did(history: History, memory: int) -> None:
    assert len(history.memory) > 20
    for start, page in history.memory.items():
        assert os.pread(memory, 4096, start) == page, f"{start:#x}\n{history.maps}"


def test_what_is_not_mapped_is_an_error(history: History, memory: int) -> None:
    kept = (history.process(1) / "maps").read_text().splitlines()
    bounds = [tuple(int(one, 16) for one in line.split()[0].split("-")) for line in kept]
    start = bounds[0][0]
    gaps = [low for (_, low), (high, _) in pairwise(bounds) if low < high]
    for address in (0, 1, start - 4096, start - 1, gaps[0], 1 << 47, (1 << 63) - 4096):
        assert failing_errno(memory, 16, address) == errno.EIO, hex(address)
    vvar = next(one for one, line in zip(bounds, kept, strict=True) if line.endswith("[vvar]"))
    assert failing_errno(memory, 1, vvar[0]) == errno.EIO


def test_a_read_ends_where_a_mapping_ends(history: History, memory: int) -> None:
    kept = (history.process(1) / "maps").read_text().splitlines()
    start, end = (int(one, 16) for one in kept[-1].split()[0].split("-"))
    stack = next(line for line in kept if line.endswith("[stack]"))
    low, high = (int(one, 16) for one in stack.split()[0].split("-"))
    assert len(os.pread(memory, 1 << 20, high - 100)) == 100
    assert os.pread(memory, high - low, low)[-4096:] == os.pread(memory, 4096, high - 4096)
    assert end > start


def test_the_past_stays_what_it_was(history: History) -> None:
    """The same address in two generations: what a step changed differs, what it did not is equal."""
    symbols = run("nm", history.binary).stdout
    offset = int(next(line for line in symbols.splitlines() if line.endswith(" counter"))[:16], 16)
    base = int(history.maps.split("-")[0], 16)
    values = []
    for epoch in (1, 2):
        with open(history.process(epoch) / "mem", "rb", buffering=0) as file:
            values.append(int.from_bytes(os.pread(file.fileno(), 4, base + offset), "little"))
    assert values == [42, 43]


def test_dd_and_python_find_an_address(history: History) -> None:
    path = history.process(1) / "mem"
    start, page = next(iter(history.memory.items()))
    found = subprocess.run(
        ["dd", f"if={path}", "bs=4096", "count=1", f"skip={start // 4096}"],
        capture_output=True,
        check=True,
    )
    assert found.stdout == page
    with path.open("rb") as file:
        file.seek(start)
        assert file.read(64) == page[:64]


# --- core -------------------------------------------------------------------------------------


def gdb(history: History, epoch: int, *commands: str) -> str:
    """What gdb says about a generation's core."""
    words = [word for command in commands for word in ("-ex", command)]
    core = history.process(epoch) / "core"
    outcome = run("gdb", "-batch", "-nx", *words, history.binary, core)
    # gdb 13 knows the places of Intel's states alone: it says so of the kernel's own cores on AMD, too.
    # Without HOME it has no place for its cache.
    known = r"warning: (Section `.reg-xstate/\d+' in core file too small|.* path for the index cache directory)\."
    said = re.sub(known, "", outcome.stderr)
    assert "warning" not in said.lower(), outcome.stderr
    return outcome.stdout


def test_gdb_shows_threads_backtraces_and_variables(history: History) -> None:
    said = gdb(
        history, 1,
        "thread apply all bt", "p counter", "p greeting", "p zeros[4000]", "p vector",
        "thread 1", "frame function main", "p place", "p half",
        "thread 2", "frame function work", "p number", "p heap", "p own_number", "p place",
        "p sizeof($ymm0)",
    )  # fmt: skip
    assert len(re.findall(r"^Thread \d+ \(", said, re.MULTILINE)) == 4
    backtraces = said.split("$1 = ")[0]
    assert backtraces.count(" in work (argument=") == 3
    assert backtraces.count(" in wait_at_depth (") == (1 + 1) + (2 + 1) + (3 + 1) + (2 + 1)
    values = re.findall(r"^\$\d+ = (.*)$", said, re.MULTILINE)
    assert values[0] == "42"
    assert values[1].endswith('"kept"')
    assert values[2] == "0 '\\000'"
    assert values[3] == "{1, 2, 3, 4, 5, 6, 7, 8}"
    assert values[4:6] == ["{x = 42, y = 1}", "0.5"]
    number = int(values[6])
    assert values[7].endswith(f'"worker {number}"')
    assert values[8] == str(100 * number)
    assert values[9] == f"{{x = {number}, y = {-number}}}"
    assert values[10] == "32"


def test_gdb_shows_each_generation_as_it_was(history: History) -> None:
    asked = ("p counter", "p (char *) zeros + 8192", "frame function main", "p place.y")
    first, second = (
        re.findall(r"^\$\d+ = (.*)$", gdb(history, epoch, *asked), re.MULTILINE) for epoch in (1, 2)
    )
    assert (first[0], second[0]) == ("42", "43")
    assert '"stepped"' not in first[1]
    assert '"stepped"' in second[1]
    assert (first[2], second[2]) == ("1", "4")


@pytest.mark.parametrize("reader", ["readelf", "eu-readelf"])
def test_elf_readers_have_no_complaint(history: History, reader: str) -> None:
    outcome = run(reader, "-a", history.process(2) / "core")
    assert outcome.returncode == 0
    assert outcome.stderr == ""
    notes = run(reader, "-n", history.process(2) / "core").stdout
    assert len(re.findall(r"PRSTATUS", notes)) == 4
    for kind in ("PRPSINFO", "SIGINFO", "AUXV", "FILE", "X86_XSTATE"):
        assert kind in notes, notes
    if reader == "eu-readelf":  # the other one prints no names in Debian 12's build
        assert str(history.binary) in notes


def test_a_core_needs_no_other_file(history: History) -> None:
    """Text and constants of program and libraries are in the core, without the program being named."""
    outcome = run("gdb", "-batch", "-nx", "-ex", "x/2i $pc", "-c", history.process(1) / "core")
    assert "Cannot access memory" not in outcome.stdout + outcome.stderr
    assert "syscall" in outcome.stdout


def test_a_core_is_what_memory_is(history: History, tmp_path: Path) -> None:
    """Each segment of the core, against `mem`; twice over the kernel's cache."""
    core = history.process(1) / "core"
    lines = run("readelf", "-lW", core).stdout.splitlines()
    loads = [line.split() for line in lines if line.strip().startswith("LOAD")]
    with core.open("rb", buffering=0) as file, (history.process(1) / "mem").open("rb", 0) as memory:
        for _, offset, address, _, size, *_ in loads:
            length = min(int(size, 16), 65536)
            wanted = os.pread(memory.fileno(), length, int(address, 16)) if length else b""
            assert os.pread(file.fileno(), length, int(offset, 16)) == wanted, address
        stored = sum(int(load[4], 16) for load in loads)
        assert core.stat().st_size - stored < 1 << 16
        assert os.pread(file.fileno(), 10, core.stat().st_size) == b""


# --- diff -------------------------------------------------------------------------------------


def test_a_diff_tells_what_a_step_changed(history: History) -> None:
    text = (history.generation(2) / "diff").read_text()
    lines = text.splitlines()
    place = f"processes/{history.pid}"
    assert lines[0].startswith("--- generation 1 ")
    assert lines[1].startswith("+++ generation 2 ")
    assert all(line[:2] in ("+ ", "- ", "~ ") for line in lines[2:])
    assert f"- {place}/fd/0 /dev/null" in lines
    assert f"+ {place}/fd/4 {history.data}" in lines
    assert f"~ {place}/fdinfo/3 pos: 0 -> 7" in lines
    added = [line for line in lines if line.startswith(f"+ {place}/maps ")]
    assert any(line.endswith(" ---p") for line in added), text
    zeroed = [line for line in lines if line.startswith(f"~ {place}/mem ") and "[stack]" in line]
    assert re.search(r": \d+ of \d+ pages: [0-9a-f]", zeroed[0])
    pages = [line for line in lines if line.startswith(f"~ {place}/mem ")]
    assert not any(" r-xp " in line for line in pages), text
    assert not any(f"{place}/threads/{history.pid + 1}" in line for line in lines), "waited on"


def test_any_two_generations_are_compared_by_name(history: History) -> None:
    generations = history.partition / "generations"
    assert (generations / "1..2").read_text() == (generations / "2/diff").read_text()
    assert (generations / "1..latest").read_text() == (generations / "1..2").read_text()
    assert len((generations / "1..1").read_text().splitlines()) == 2
    backwards = (generations / "2..1").read_text()
    assert f"+ processes/{history.pid}/fd/0 /dev/null" in backwards
    assert (generations / "1..2").stat().st_size == len((generations / "1..2").read_text())
    for missing in ("1..9", "1..", "..", "1..2..2", "x..1"):
        if missing != "..":
            assert not (generations / missing).exists()
    assert sorted(os.listdir(generations)) == ["1", "2", "latest"]
    first = (generations / "1/diff").read_text().splitlines()
    assert first[0] == "--- nothing"
    assert first[2:] == [f"+ processes/{history.pid} (threads)"]


# --- ordinary tools ---------------------------------------------------------------------------


@pytest.fixture
def copy(history: History, tmp_path: Path) -> Path:
    """`cp -a` of a generation."""
    outcome = run("cp", "-a", history.generation(1), tmp_path / "copy")
    assert (outcome.returncode, outcome.stderr) == (0, "")
    return tmp_path / "copy"


def test_cp_diff_grep_and_tar_work_as_on_any_tree(
    history: History, copy: Path, tmp_path: Path
) -> None:
    generation = history.generation(1)
    same = run("diff", "-r", "--no-dereference", generation, copy)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    assert run("grep", "-rl", "worker 1", generation).stdout == f"{history.process(1)}/core\n"
    packed = run("tar", "-C", generation.parent, "-cf", tmp_path / "all.tar", "1")
    assert (packed.returncode, packed.stderr) == (0, "")
    unpacked = tmp_path / "unpacked"
    unpacked.mkdir()
    assert run("tar", "-C", unpacked, "-xpf", tmp_path / "all.tar").returncode == 0
    assert run("diff", "-r", "--no-dereference", unpacked / "1", copy).returncode == 0
    found = run("find", generation, "-type", "f", "-newermt", "2000-01-01", "-size", "+1M")
    assert found.stdout == f"{history.process(1)}/core\n"
    differing = run("diff", "-rq", "--no-dereference", generation, history.generation(2))
    assert differing.returncode == 1
    assert "Only in" in differing.stdout


def test_rsync_and_du_take_a_whole_history(history: History, tmp_path: Path) -> None:
    """A second rsync finds nothing to do: sizes and times stay."""
    source, copy = history.partition / "generations", tmp_path / "copy"
    words = ("rsync", "-aAX", "--itemize-changes", f"{source}/", copy)
    first = run(*words)
    assert (first.returncode, first.stderr) == (0, "")
    assert f"2/processes/{history.pid}/core" in first.stdout
    again = run(*words)
    assert (again.returncode, again.stdout, again.stderr) == (0, "", "")
    same = run("diff", "-r", "--no-dereference", source, copy)
    assert (same.returncode, same.stdout, same.stderr) == (0, "", "")
    for command in (("du", "-s", source), ("ls", "-lR", source), ("find", source, "-ls")):
        outcome = run(*command)
        assert (outcome.returncode, outcome.stderr) == (0, ""), command


def every_path(place: Path) -> list[Path]:
    return [place, *sorted(place.rglob("*"))]


def changes_of(path: Path) -> Iterator[Callable[[], object]]:
    """Every change of what `path` names that is tried."""
    yield partial(os.chown, path, 1, 1, follow_symlinks=False)
    yield partial(os.utime, path, follow_symlinks=False)
    if path.is_symlink():
        yield path.unlink
    elif path.is_dir():
        yield partial(os.chmod, path, 0o777)
        yield (path / "new").touch
        yield (path / "new").mkdir
        yield partial(os.symlink, "x", path / "new")
        yield partial(os.mkfifo, path / "new")
    else:
        yield path.unlink
        yield partial(os.chmod, path, 0o777)
        yield partial(os.open, path, os.O_WRONLY)
        yield partial(os.open, path, os.O_RDWR | os.O_TRUNC)
        yield partial(os.truncate, path, 0)
        yield partial(os.link, path, path.parent / "hard")


def test_nothing_of_a_generation_can_be_changed_by_root(history: History) -> None:
    generation = history.generation(1)
    for path in every_path(generation):
        changes = [*changes_of(path)]
        if path != generation:
            changes.append(partial(path.rename, path.parent / "other"))
            changes.append(path.rmdir if path.is_dir() and not path.is_symlink() else path.unlink)
        for change in changes:
            with pytest.raises(OSError) as caught:
                change()
            assert caught.value.errno == errno.EROFS, (path, change)


TRY_ALL = """
import errno, os, stat, sys
for line in sys.stdin:
    path = line.rstrip("\\n")
    for action in (
        lambda: os.lstat(path), lambda: os.open(path, os.O_RDONLY), lambda: os.listdir(path),
        lambda: os.readlink(path), lambda: os.open(path, os.O_WRONLY), lambda: os.chmod(path, 0o777),
        lambda: os.unlink(path), lambda: os.rmdir(path), lambda: os.mkdir(path + "/x"),
        lambda: os.symlink("../generations/1", path + "/x"), lambda: os.rename(path, path + "x"),
        lambda: os.utime(path), lambda: os.truncate(path, 0), lambda: os.getxattr(path, "user.x"),
        lambda: os.setxattr(path, "user.x", b"x"), lambda: os.listxattr(path),
    ):
        try:
            action()
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EPERM):
                continue
            sys.exit(f"{path}: {error}")
        sys.exit(f"{path}: was possible")
"""


CHANGE_ALL = """
import errno, os, sys
def change(path, action, *others):
    try:
        action()
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM, *others):
            return
        sys.exit(f"{path}: {error}")
    sys.exit(f"{path}: was possible")
for line in sys.stdin:
    path = line.rstrip("\\n")
    change(path, lambda: os.chmod(path, 0o777))
    change(path, lambda: os.chown(path, 12345, -1))
    change(path, lambda: os.utime(path))
    change(path, lambda: os.rename(path, path + "x"), errno.EBUSY)
    change(path, lambda: os.setxattr(path, "user.x", b"x"), errno.EOPNOTSUPP)
    change(path, lambda: os.link(path, os.path.dirname(path) + "/hard"), errno.EXDEV)
    if not os.path.isdir(path):
        change(path, lambda: os.open(path, os.O_WRONLY))
        change(path, lambda: os.truncate(path, 0))
        change(path, lambda: os.unlink(path))
        continue
    change(path, lambda: os.rmdir(path), errno.EBUSY)
    change(path, lambda: os.open(path + "/x", os.O_CREAT | os.O_WRONLY))
    change(path, lambda: os.symlink("x", path + "/x"))
    change(path, lambda: os.mkfifo(path + "/x"))
    change(path, lambda: os.mkdir(path + "/x"), errno.EINVAL)  # not a number, where partitions are made
    change(path, lambda: os.rmdir(path + "/1"), errno.ENOENT)
    change(path, lambda: os.rename(path + "/1", path + "/2"), errno.ENOENT)
"""


def test_another_user_gets_at_nothing(history: History) -> None:
    """Every operation on every file of a partition, by someone who is neither owner nor root."""
    (history.partition / "tags" / "one").symlink_to("../generations/1")
    make_open_files(history.partition / "files")
    epoch = take(history.partition)
    paths = [one for one in every_path(history.partition) if one != history.partition]
    assert len(paths) > 100
    names = "".join(f"{one}\n" for one in [*paths, history.process(1) / "mem"])
    outcome = subprocess.run(
        [sys.executable, "-c", TRY_ALL],
        input=names, user=12345, group=12345, extra_groups=[], text=True, capture_output=True,
        check=False, timeout=180,
    )  # fmt: skip
    assert outcome.stderr == ""
    assert outcome.returncode == 0
    (history.partition / "tags" / "one").unlink()
    (history.partition / "generations" / str(epoch)).rmdir()
    shutil.rmtree(history.partition / "files" / "open")


def make_open_files(files: Path) -> None:
    """Of each kind, and their own modes let everyone."""
    place = files / "open"
    place.mkdir()
    (place / "file").write_text("contents")
    (place / "d").mkdir()
    (place / "link").symlink_to("file")
    os.mkfifo(place / "pipe")
    os.mknod(place / "null", stat.S_IFCHR, os.makedev(1, 3))
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(place / "socket"))
    os.setxattr(place / "file", "user.x", b"x")
    for path in (place, *(one for one in place.iterdir() if not one.is_symlink())):
        path.chmod(0o777)


def test_another_user_changes_nothing_at_the_top(history: History) -> None:
    """What everyone may read there is nobody's to change; partitions he may make, and have no other's."""
    top = history.partition.parent.parent
    paths = [top, top / "partitions", *(top / name for name in ("README", "status", "metrics"))]
    outcome = subprocess.run(
        [sys.executable, "-c", CHANGE_ALL], input="".join(f"{one}\n" for one in paths),
        user=12345, group=12345, extra_groups=[], text=True, capture_output=True,
        check=False, timeout=180,
    )  # fmt: skip
    assert outcome.stderr == ""
    assert outcome.returncode == 0


def test_private_files_are_the_owners_alone(history: History) -> None:
    for name in ("mem", "core", "environ"):
        assert (history.process(1) / name).stat().st_mode & 0o777 == 0o600
    assert history.partition.stat().st_mode & 0o777 == 0o700


# --- beside others ----------------------------------------------------------------------------


def test_reading_goes_on_while_others_are_taken_and_deleted(history: History) -> None:
    wanted = (history.process(1) / "core").read_bytes()
    core = history.process(1) / "core"
    loop = 'for i in 1 2 3 4 5 6 7 8; do cksum < "$1"; done'
    with subprocess.Popen(
        ["sh", "-c", loop, "sh", core], stdout=subprocess.PIPE, text=True
    ) as reader:
        for _ in range(8):
            epoch = take(history.partition)
            (history.partition / "generations" / str(epoch)).rmdir()
        said, _ = reader.communicate(timeout=180)
    expected = subprocess.run(["cksum"], input=wanted, capture_output=True, check=True).stdout
    assert set(said.splitlines()) == {expected.decode().strip()}
    newest = take(history.partition)
    assert (history.partition / "generations" / str(newest) / "diff").read_text().startswith("--- ")
    (history.partition / "generations" / str(newest)).rmdir()


def test_a_long_history_is_listed_at_once(make_mount: MakeMount) -> None:
    """By hand with 10,000: see docs/generations.md."""
    mounted = make_mount()
    ObjectStore.create(mounted.store)
    with ObjectStore.open(mounted.store) as store:
        store.create_partition(1)
        for _ in range(300):
            with store.begin(1) as transaction:
                transaction.put(MANIFEST_OBJECT, b"")
                transaction.commit(wait=False)
    generations = mounted.mount().partition(1) / "generations"
    names = os.listdir(generations)
    assert sorted(map(int, names[:-1])) == list(range(1, 301))
    assert names[-1] == "latest"
    with os.scandir(generations) as entries:
        assert sum(one.is_dir(follow_symlinks=False) for one in entries) == 300


def test_a_path_that_leads_back_here_ends(history: History) -> None:
    """A mapped file replaced by a link to the generation's own core: the daemon does not read itself."""
    link = history.binary.parent / "aside"
    history.binary.rename(link)
    try:
        history.binary.symlink_to(history.process(1) / "core")
        notes = run("eu-readelf", "-n", history.process(1) / "core")
        assert (notes.returncode, notes.stderr) == (0, "")
        start = int(history.maps.split("-")[0], 16)
        with (history.process(1) / "mem").open("rb", buffering=0) as memory:
            assert failing_errno(memory.fileno(), 16, start) == errno.EIO
    finally:
        history.binary.unlink()
        link.rename(history.binary)
