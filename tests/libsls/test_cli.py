"""slsctl as its users type it, on fake partitions."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.libsls.conftest import INTERRUPTIBLE, LAUNCHER, Slsctl
from tests.mounts import Mounted, is_alive, load, wait_until

pytestmark = [pytest.mark.root, pytest.mark.fuse]


@pytest.mark.parametrize(
    "words",
    [
        ("partadd", "-o", 5, "-d", "-t", 100, "-b", "memory"),
        ("partadd", "memory", "-o", 5, "-d", "-t", 100),
    ],
    ids=["option", "word"],
)
def test_both_spellings_of_partadd(
    slsctl: Slsctl, mounted: Mounted, words: tuple[object, ...]
) -> None:
    assert slsctl(*words).returncode == 0
    settings = load(mounted.partition(5) / "status")["settings"]
    assert settings == {
        "period_ms": 100,
        "mode": "delta",
        "backend": "memory",
        "retain": 0,
        "thin": "",
    }
    assert slsctl("partdel", "-o", 5).returncode == 0
    assert not mounted.partition(5).exists()


def test_a_partition_from_checkpoint_to_restore(
    slsctl: Slsctl, mounted: Mounted, sleeper: int
) -> None:
    assert slsctl("partadd", "-o", 1, "-b", "slos").returncode == 0
    assert slsctl("attach", "-o", 1, "-p", sleeper).returncode == 0
    assert slsctl("checkpoint", "-o", 1, "-r", "--name", "first").stdout == "1\n"
    assert slsctl("checkpoint", "-o", 1, "--no-wait").stdout == "2\n"
    assert slsctl("wait", "-o", 1).stdout == "2\n"
    listed = json.loads(slsctl("ls", "-o", 1, "--json").stdout)
    assert [(one["epoch"], one["name"]) for one in listed] == [(1, "first"), (2, "")]
    assert "first" in slsctl("ls", "-o", 1).stdout
    assert slsctl("restore", "-o", 1, "-d", 1).stdout == f"{sleeper}\n"
    assert slsctl("rm", "-o", 1, 2).returncode == 0
    assert os.listdir(mounted.partition(1) / "generations") == ["1", "latest"]
    assert slsctl("detach", "-o", 1, "-p", sleeper).returncode == 0
    assert "detached" in slsctl("log", "-o", 1).stdout


@pytest.mark.usefixtures("mounted")
def test_ps_and_status(slsctl: Slsctl, sleeper: int) -> None:
    slsctl("partadd", "-o", 2)
    slsctl("attach", "-o", 2, "-p", sleeper)
    rows = slsctl("ps").stdout.splitlines()
    assert rows[0].split()[:3] == ["OID", "MEMBERS", "NEWEST"]
    assert rows[1].split()[:3] == ["2", str(sleeper), "0"]
    assert json.loads(slsctl("ps", "--json").stdout)[0]["members"] == [sleeper]
    assert "settings.period_ms" in slsctl("status", "-o", 2).stdout
    assert json.loads(slsctl("status", "--json").stdout)["partitions"] == 1


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("partadd", "-o", 1), "partition 1 exists"),
        (("attach", "-o", 1, "-p", 4194304), "pid 4194304 does not exist"),
        (("detach", "-o", 1, "-p", 1), "partition 1: "),
        (("checkpoint", "-o", 1), "no members"),
        (("restore", "-o", 1, "-d"), "no generation"),
        (("restore", "-o", 1, "-d", 9), "no generation 9"),
        (("checkpoint", "-o", 9), "partition 9 does not exist"),
        (("ls", "-o", 9), "partition 9 does not exist"),
        (("partdel", "-o", 9), "partition 9 does not exist"),
        (("rm", "-o", 1, 7), "partition 1 has no generation 7"),
        (("checkpoint", "-o", 1, "--name", "a/b"), "cannot name a generation"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_a_refusal_is_one_line_and_status_1(
    slsctl: Slsctl, mounted: Mounted, words: tuple[object, ...], reason: str
) -> None:
    mounted.partition(1, create=True)
    outcome = slsctl(*words)
    assert outcome.returncode == 1
    assert outcome.stdout == ""
    assert outcome.stderr.startswith("slsctl: ")
    assert outcome.stderr.count("\n") == 1
    assert reason in outcome.stderr


@pytest.mark.parametrize(
    "words",
    [
        ("partadd",),
        ("partadd", "-o", "0"),
        ("partadd", "-o", "65537"),
        ("partadd", "-o", "abc"),
        ("partadd", "-o", 1, "-b", "disk"),
        ("partadd", "disk", "-o", 1),
        ("partadd", "slos", "-o", 1, "-b", "memory"),
        ("partadd", "-o", 1, "-t", -1),
        ("partadd", "-o", 1, "-t", "x"),
        ("attach", "-o", 1, "-p", "x"),
        ("attach", "-o", 1, "-p", "-5"),
        ("attach", "-o", 1, "-p", "9" * 30),
        ("restore", "-o", 1, "zero"),
        ("spawn", "-o", 1),
        ("frobnicate",),
    ],
    ids=lambda words: " ".join(map(str, words)),
)
def test_misuse_is_status_2(slsctl: Slsctl, mounted: Mounted, words: tuple[object, ...]) -> None:
    outcome = slsctl(*words)
    assert outcome.returncode == 2
    assert outcome.stderr
    assert os.listdir(mounted.place / "partitions") == []


@pytest.mark.usefixtures("mounted")
@pytest.mark.parametrize(
    ("command", "status"),
    [("exit 7", 7), ("kill -TERM $$", 128 + signal.SIGTERM)],
    ids=["exit", "signal"],
)
def test_spawn_ends_as_its_command(slsctl: Slsctl, command: str, status: int) -> None:
    assert slsctl("spawn", "-o", 3, "--", "sh", "-c", command).returncode == status


def test_spawn_makes_a_member_from_the_start(slsctl: Slsctl, mounted: Mounted) -> None:
    attached = f"grep -qx $$ {mounted.partition(3)}/attach"
    assert slsctl("spawn", "-o", 3, "--", "sh", "-c", attached).returncode == 0


@pytest.mark.parametrize(("command", "status"), [("no-such-program", 127), ("/etc/passwd", 126)])
def test_spawn_of_what_cannot_run_leaves_nothing(
    slsctl: Slsctl, mounted: Mounted, command: str, status: int
) -> None:
    outcome = slsctl("spawn", "-o", 3, "-t", 100, "--", command)
    assert (outcome.returncode, outcome.stdout) == (status, "")
    assert outcome.stderr.startswith(f"slsctl: {command}: ")
    assert not mounted.partition(3).exists()
    kept = mounted.partition(4, create=True)
    assert slsctl("spawn", "-o", 4, "-t", 100, "--", command).returncode == status
    assert (kept / "period").read_text() == "0\n"
    assert (kept / "attach").read_text() == ""


def test_spawn_passes_signals_on(mounted: Mounted) -> None:
    arguments = ["spawn", "-o", "3", "--", "sleep", "300"]
    with subprocess.Popen(
        [sys.executable, str(LAUNCHER), *arguments], start_new_session=True
    ) as program:
        members = mounted.partition(3) / "attach"
        wait_until(lambda: members.exists() and members.read_text())
        pid = int(members.read_text())
        wait_until(lambda: "sleep" in (mounted.place / f"/proc/{pid}/comm").read_text())
        program.send_signal(signal.SIGTERM)
        assert program.wait(60) == 128 + signal.SIGTERM
        assert not is_alive(pid)


def test_spawn_in_the_background_prints_the_pid(slsctl: Slsctl, mounted: Mounted) -> None:
    pid = int(slsctl("spawn", "-d", "-o", 3, "-t", 0, "--", "sleep", 300).stdout)
    try:
        assert (mounted.partition(3) / "attach").read_text() == f"{pid}\n"
    finally:
        os.kill(pid, signal.SIGKILL)


def test_log_follows(mounted: Mounted) -> None:
    partition = mounted.partition(1, create=True)
    with subprocess.Popen(
        [sys.executable, str(LAUNCHER), "log", "-o", "1", "-f"], stdout=subprocess.PIPE, text=True
    ) as program:
        assert program.stdout is not None
        assert "created" in program.stdout.readline()
        (partition / "period").write_text("100")
        assert "period_ms set to 100" in program.stdout.readline()
        program.kill()


def test_without_a_mount_it_says_so(monkeypatch: pytest.MonkeyPatch, slsctl: Slsctl) -> None:
    monkeypatch.setenv("SLFS_MOUNT", "/proc")
    outcome = slsctl("ps")
    assert outcome.returncode == 1
    assert "no mounted slfs" in outcome.stderr


def test_a_bare_python_goes_on_in_the_own_environment(mounted: Mounted) -> None:
    outcome = subprocess.run(
        ["/usr/bin/python3", "-S", str(LAUNCHER), "ps"],
        capture_output=True,
        text=True,
        check=False,
    )
    own_python = LAUNCHER.parents[1] / ".venv/bin/python"
    if own_python.exists():
        assert outcome.returncode == 0, outcome.stderr
    else:
        assert "scripts/setup.sh" in outcome.stderr


@pytest.mark.parametrize(
    ("module", "words", "status"),
    [("click", ["ps"], -signal.SIGINT), ("numpy", ["dump", "/dev/null"], 128 + signal.SIGINT)],
    ids=["at-start", "in-a-command"],
)
def test_an_interrupt_is_quiet(tmp_path: Path, module: str, words: list[str], status: int) -> None:
    """In the middle of an import, which is what slsctl does most of the time."""
    (tmp_path / f"{module}.py").write_text(
        "import os, signal\nos.kill(os.getpid(), signal.SIGINT)\n"
    )
    outcome = subprocess.run(
        [*INTERRUPTIBLE, *words],
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (outcome.returncode, outcome.stderr.strip(), outcome.stdout) == (status, "", "")
