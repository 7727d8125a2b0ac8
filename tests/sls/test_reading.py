"""Descriptors as a capture reads them and a restore numbers them."""

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
        assert "files are open in all, and the filesystem's daemon may hold 258" in words

    with Program([*command_of("ticker.c", binaries), str(tmp_path / "go")], tmp_path) as program:
        program.wait_progress()
        apart(be_refused)
        program.wait_progress()
