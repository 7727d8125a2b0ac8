"""Joins the control group CASE[0] with a child; both are still in it after go."""

import os
import sys
from pathlib import Path

from tests.programs.protocol import CASE, expect, finish, wait_along, wait_for_go

Path(CASE[0], "cgroup.procs").write_text(str(os.getpid()))
before = Path("/proc/self/cgroup").read_text()
expect("joined", Path(CASE[0]).name in before, True)
child = os.fork()
if not child:
    wait_along()
    expect("groups of the child", Path("/proc/self/cgroup").read_text(), before)
    sys.exit(0)
wait_for_go()
expect("groups", Path("/proc/self/cgroup").read_text(), before)
expect("status of the child", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), 0)
finish()
