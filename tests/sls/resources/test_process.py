"""Process trees, groups and sessions, ended and stopped processes, and what a process has beside memory and files."""

import os
import subprocess
from pathlib import Path
from typing import Final

import pytest

from sls import proc
from tests.sls.conftest import Kept, Refused
from tests.sls.driver import PROGRAMS, Way, run

_CAP_SYS_RESOURCE: Final = 24


def test_211_five_children_with_a_pipe_between_each_pair(kept: Kept) -> None:
    kept("tree.c")


def test_220_two_process_groups(kept: Kept) -> None:
    kept("groups.c")


@pytest.mark.parametrize("signal", ["pending", "taken"])
def test_211_zombies_keep_their_status(kept: Kept, signal: str) -> None:
    kept("zombies.c", signal)


def test_stopped_process_stays_stopped(kept: Kept) -> None:
    kept("stopped.c")


def test_main_thread_has_ended(kept: Kept) -> None:
    kept("no_leader.c")


@pytest.mark.parametrize("leader", ["gone", "elsewhere", "group"])
def test_orphans_in_their_sessions_and_groups(kept: Kept, leader: str) -> None:
    outcome = kept("sessions.c", leader)
    assert not outcome.notes


@pytest.mark.parametrize(
    ("what", "words"),
    [
        ("memory", "memory: it shares its address space (CLONE_VM) with pid"),
        ("files", "descriptors: it shares its descriptor table (CLONE_FILES) with pid"),
        ("directories", "directories: it shares its root, cwd and umask (CLONE_FS) with pid"),
        ("thread", "has its own (unshare(2)), which is not supported"),
    ],
    ids=["memory", "files", "directories", "thread"],
)
def test_x26_what_tasks_share_is_refused_by_name(refused: Refused, what: str, words: str) -> None:
    assert words in refused("shares.c", what)


def test_x26_syscall_user_dispatch_is_refused_by_name(refused: Refused) -> None:
    assert "syscall user dispatch" in refused("dispatch.c")


@pytest.mark.root
def test_x26_a_32_bit_program_is_refused_by_name(tmp_path: Path, binaries: Path) -> None:
    program = binaries / "narrow"
    flags = ["-m32", "-O1", "-nostdlib", "-static", "-fno-pie", "-fno-stack-protector"]
    made = subprocess.run(
        ["gcc", *flags, "-o", program, PROGRAMS / "narrow.c"], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("this compiler makes no 32-bit programs")
    outcome = run([str(program), str(tmp_path / "go")], tmp_path, Way.REFUSED)
    assert not outcome.failure
    assert "a 32-bit program is not supported" in outcome.refusal


@pytest.mark.parametrize("case", ["settings", "chroot", "removed"])
def test_x25_settings_and_directories(kept: Kept, case: str) -> None:
    assert not kept("identity.c", case).notes


@pytest.mark.parametrize("limit", ["as", "data"])
def test_x25_a_limit_that_leaves_no_room(kept: Kept, limit: str) -> None:
    assert not kept("full.c", limit).notes


def test_x26_a_hard_limit_that_leaves_no_room(kept: Kept, refused: Refused) -> None:
    """Only with CAP_SYS_RESOURCE it can be raised for the moment that is needed."""
    if int(proc.status(os.getpid())["CapEff"], 16) >> _CAP_SYS_RESOURCE & 1:
        assert not kept("full.c", "hard").notes
    else:
        assert "address space: no room for" in refused("full.c", "hard")
