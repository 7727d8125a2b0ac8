"""Room for a mapping of ours where a limit leaves none."""

import resource
import subprocess
import sys

import pytest

from sls import proc
from sls.headroom import room_for

pytestmark = pytest.mark.root
UNLIMITED = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    "limit", [(1 << 20, 1 << 40), (1 << 20, UNLIMITED), (1 << 40, 1 << 40), (UNLIMITED, UNLIMITED)]
)
def test_a_limit_is_higher_by_what_is_needed_and_then_what_it_was(limit: tuple[int, int]) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as program:
        resource.prlimit(program.pid, resource.RLIMIT_AS, limit)
        with room_for(program.pid, 1 << 20):
            soft, hard = resource.prlimit(program.pid, resource.RLIMIT_AS)
            wanted = proc.mapped_bytes(program.pid) + (1 << 20)
            assert soft == UNLIMITED or soft >= wanted
            assert hard == UNLIMITED or hard == max(limit[1], soft)
        assert resource.prlimit(program.pid, resource.RLIMIT_AS) == limit
        program.kill()


def test_another_users_limit_decides_where_it_may_not_be_seen() -> None:
    """prlimit(2) needs CAP_SYS_RESOURCE then, which root has not everywhere."""
    with subprocess.Popen(["sleep", "100"], user=65534, group=65534) as program:
        try:
            ask = f"from sls.headroom import room_for\nwith room_for({program.pid}, 1): print('in')"
            drop = ["setpriv", "--bounding-set", "-sys_resource", sys.executable, "-c", ask]
            done = subprocess.run(drop, capture_output=True, text=True, check=False)
            assert (done.stdout, done.stderr) == ("in\n", "")
        finally:
            program.kill()
