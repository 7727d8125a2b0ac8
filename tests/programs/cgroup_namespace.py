"""In a cgroup namespace whose root is the control group CASE[0]; in that itself, or in one below it (CASE[1])."""

import os
import sys
from pathlib import Path

from tests.programs.protocol import CASE, expect, finish, wait_for_go

GROUP = Path(CASE[0])
BELOW = GROUP / "below"

if "inside" not in CASE:
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    os.execvp(
        "unshare", ["unshare", "--cgroup", "--", sys.executable, "-S", "-P", *sys.argv, "inside"]
    )


def seen() -> set[str]:
    """Paths of the groups, as this process sees them."""
    return {line.split(":")[2] for line in Path("/proc/self/cgroup").read_text().splitlines()}


if CASE[1] == "below":
    BELOW.mkdir()
    (BELOW / "cgroup.procs").write_text(str(os.getpid()))
expect("what is seen", seen() - {"/"}, {"/below"} if CASE[1] == "below" else set())
before = seen()
wait_for_go()
expect("what is seen then", seen(), before)
if CASE[1] == "below":
    (GROUP / "cgroup.procs").write_text(str(os.getpid()))
    BELOW.rmdir()
    expect("what is seen of the root", seen(), {"/"})
finish()
