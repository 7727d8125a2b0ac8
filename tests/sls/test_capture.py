"""Captures that fail leave nothing of ours in the processes."""

import sys
from pathlib import Path
from typing import NoReturn

import pytest

from sls import proc
from sls.capture import Tracer
from sls.errors import NotKeptError
from tests.sls.apart import Program, apart

pytestmark = pytest.mark.root

LARGE = "import time; memory = b'x' * (24 << 20); print('ready', flush=True); time.sleep(1000)"


@pytest.mark.parametrize("error", [NotKeptError, EOFError])
def test_large_memory_that_cannot_be_kept_leaves_no_arena(
    tmp_path: Path, error: type[Exception]
) -> None:
    """The store is full, or the daemon has ended: that comes before the stop of all, and after a first one."""

    def refuse(*_: object) -> NoReturn:
        raise error

    def capture_in_vain() -> None:
        with Program([sys.executable, "-c", LARGE], tmp_path) as program:
            program.wait_progress(1)
            before = proc.read(program.pid, "maps")
            with pytest.raises(error):
                Tracer().capture(program.tree, full=True, track=False, keep=refuse)
            assert proc.read(program.pid, "maps") == before

    apart(capture_in_vain)
