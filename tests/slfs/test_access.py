"""Who may trace whom."""

import errno
import os
import subprocess
import sys

import pytest

from slfs.access import Caller, check_may_trace
from slfs.errors import RefusedError


def test_root_may_trace_anyone() -> None:
    check_may_trace(Caller(0, 0, 1), [1, os.getpid()])


@pytest.mark.root
def test_a_user_may_trace_his_own_only() -> None:
    code = "import time; print(flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", code], user=12345, group=12345, extra_groups=[],
        stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        process.stdout.readline()
        try:
            check_may_trace(Caller(12345, 12345, 1), [process.pid, 4194304])
            for stranger in (Caller(12346, 12345, 1), Caller(12345, 1, 1)):
                with pytest.raises(RefusedError) as caught:
                    check_may_trace(stranger, [process.pid])
                assert caught.value.errno == errno.EPERM
        finally:
            process.kill()
    with pytest.raises(RefusedError):
        check_may_trace(Caller(12345, 12345, 1), [os.getpid()])
