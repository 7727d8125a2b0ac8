"""Checkpoint, kill and restore every stressor of stress-ng: `python scripts/stress-table.py [--table FILE] [NAME...]`.

Writes the outcome of each into the table, docs/stress-ng.tsv, from which `scripts/list-resources.py` makes the
chapter of docs/resources.md. Runs in namespaces of its own (pid, net, ipc, uts, mount): what a stressor leaves behind
ends with them. Fails when one came back wrong or hung. Half an hour for all; a name runs that one again.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.acceptance.stress_ng import Outcome, Result, tried  # noqa: E402
from tests.mounts import REAL, mounting  # noqa: E402

TABLE: Final = ROOT / "docs" / "stress-ng.tsv"
SECONDS: Final = 3
INSIDE: Final = "SLS_STRESS_INSIDE"
# a shell as init of the pid namespace waits for what others leave behind
UNSHARE: Final = (
    "unshare",
    "--pid",
    "--fork",
    "--kill-child",
    "--mount",
    "--net",
    "--ipc",
    "--uts",
    "--mount-proc",
)
INIT: Final = ("bash", "-c", 'ip link set lo up; "$@"; exit $?', "init")
# these change the machine, or take all of it
NOT_TRIED: Final = """
    apparmor bad-ioctl bigheap binderfs brk clock cpu-online dev dev-shm efivar fallocate forkheavy
    gpu hdd icmp-flood idle-page iomix ioport klog kvm loadavg loop memhotplug mlockmany mmapfork
    module netdev oom-pipe pci physpage quota ramfs rawdev reboot resources revio rtc smi softlockup
    stack swap syncload sysbadaddr sysfs sysinval udp-flood uprobe vforkmany watchdog x86syscall
    zombie
"""


def stressors() -> list[str]:
    """All that this stress-ng has, but for those that are not tried."""
    found = subprocess.run(["stress-ng", "--stressors"], capture_output=True, text=True, check=True)
    return [name for name in found.stdout.split() if name not in NOT_TRIED.split()]


def results(names: Sequence[str]) -> Iterator[Result]:
    """The outcome of each, in a partition of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="sls-stress-", ignore_cleanup_errors=True) as place,
        mounting(Path(place), REAL) as make,
    ):
        mounted = make().mount()
        for oid, name in enumerate(names, 1):
            partition = mounted.partition(oid, create=True)
            directory = Path(place, name)
            directory.mkdir()
            yield tried(name, partition, directory, SECONDS)
            partition.rmdir()


def write_line(table: Path, result: Result) -> None:
    """Put one outcome into the table, in the place of an earlier one."""
    lines = table.read_text().splitlines() if table.exists() else []
    kept = [line for line in lines if line.partition("\t")[0] != result.stressor]
    kept.append("\t".join((result.stressor, result.outcome.value, result.words)))
    table.write_text("".join(f"{line}\n" for line in sorted(kept)))


def main(arguments: Sequence[str]) -> int:
    """Run, in namespaces of our own; exit status 1 when one came back wrong or hung."""
    if INSIDE not in os.environ:
        command = [*UNSHARE, *INIT, sys.executable, __file__, *arguments]
        return subprocess.run(command, env=os.environ | {INSIDE: "1"}, check=False).returncode
    parser = argparse.ArgumentParser(description="Checkpoint, kill and restore stressors.")
    parser.add_argument("--table", type=Path, default=TABLE)
    parser.add_argument("names", nargs="*")
    wanted = parser.parse_args(arguments)
    failed = 0
    for result in results(wanted.names or stressors()):
        sys.stdout.write(f"{result.stressor}\t{result.outcome.value}\t{result.words}\n")
        sys.stdout.flush()
        write_line(wanted.table, result)
        failed += result.outcome in (Outcome.WRONG, Outcome.HUNG)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
