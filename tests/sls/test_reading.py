"""Descriptors as a capture reads them and a restore numbers them."""

import os
import resource
from pathlib import Path

import pytest

from sls.capture import Tracer
from sls.errors import UnsupportedResourceError
from tests.sls.apart import Program, apart
from tests.sls.conftest import Kept
from tests.sls.driver import command_of

pytestmark = pytest.mark.root


def test_descriptors_of_any_number(kept: Kept) -> None:
    kept("descriptor_numbers.py")


def test_more_files_than_the_daemon_may_hold(tmp_path: Path, binaries: Path) -> None:
    def be_refused() -> None:
        resource.setrlimit(resource.RLIMIT_NOFILE, (258, 258))
        with pytest.raises(UnsupportedResourceError) as raised:
            Tracer().capture(program.tree, full=True, track=False)
        words = str(raised.value)
        assert words.startswith(f"pid {program.pid}: descriptors: ")
        assert "are open in all, and the filesystem's daemon may hold 258" in words

    with Program([*command_of("ticker.c", binaries), str(tmp_path / "go")], tmp_path) as program:
        program.wait_progress()
        apart(be_refused)
        program.wait_progress()


def test_more_shared_memory_than_may_be_open_at_once(tmp_path: Path, binaries: Path) -> None:
    """It is opened one by one, and counts against what a restore needs."""

    def capture(program: Program) -> None:
        tracer = Tracer()
        tracer.capture(program.tree, full=True, track=False)
        open_files = os.listdir("/proc/self/fd")
        resource.setrlimit(resource.RLIMIT_NOFILE, (900, 900))
        with pytest.raises(UnsupportedResourceError) as raised:
            tracer.capture(program.tree, full=True, track=False)
        assert "objects of shared memory, each twice, are open in all" in str(raised.value)
        assert os.listdir("/proc/self/fd") == open_files

    command = [*command_of("shared_mappings.c", binaries), str(tmp_path / "go")]
    with Program(command, tmp_path) as program:
        while not program.lines():
            assert program.process.poll() is None
        apart(lambda: capture(program))
        (tmp_path / "go").touch()
        assert program.process.wait(60) == 0


def test_many_shared_mappings(kept: Kept) -> None:
    kept("shared_mappings.c")
