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
# A shell as init of the pid namespace waits for what others leave behind. Devices are a few harmless ones, shared
# memory is bounded, /sys can be read only.
PREPARE: Final = """
ip link set lo up
echo 0 2147483647 > /proc/sys/net/ipv4/ping_group_range
dev=$(mktemp -d)
mount -t tmpfs -o mode=755,size=64M dev "$dev"
for name in null zero full random urandom tty ptmx fuse kvm; do
    [ ! -e /dev/$name ] || cp -a /dev/$name "$dev/"
done
ln -s /proc/self/fd "$dev/fd"
mkdir "$dev/pts" "$dev/shm" "$dev/net"
[ ! -e /dev/net/tun ] || cp -a /dev/net/tun "$dev/net/"
mount -t devpts -o newinstance,mode=620,ptmxmode=666 devpts "$dev/pts"
mount -t tmpfs -o mode=1777,size=256M shm "$dev/shm"
mount --rbind "$dev" /dev
umount -l "$dev"
rmdir "$dev"
mount -t tmpfs -o size=64M media /media  # the stressor of that kind wants one outside of /dev
for place in $(awk '$2 ~ "^/sys/kernel/" { print $2 }' /proc/self/mounts); do umount -l "$place"; done
mount -o remount,ro,bind /sys
"$@"
exit $?
"""
INIT: Final = ("bash", "-c", PREPARE, "init")


def stressors() -> list[str]:
    """All that this stress-ng has."""
    found = subprocess.run(["stress-ng", "--stressors"], capture_output=True, text=True, check=True)
    return found.stdout.split()


def results(names: Sequence[str]) -> Iterator[Result]:
    """The outcome of each, in a partition of its own."""
    with (
        tempfile.TemporaryDirectory(prefix="sls-stress-", ignore_cleanup_errors=True) as place,
        mounting(Path(place), REAL) as make,
    ):
        Path(place).chmod(0o711)  # some run as another user
        mounted = make().mount()
        for oid, name in enumerate(names, 1):
            partition = mounted.partition(oid, create=True)
            directory = Path(place, f"{oid}-{name}")
            directory.mkdir()
            yield tried(name, partition, directory, SECONDS, empty_shared_memory)
            partition.rmdir()


def empty_shared_memory() -> None:
    """What a killed stressor has filled after its checkpoint leaves no room for what it had."""
    for left in Path("/dev/shm").iterdir():
        if not left.is_dir():
            left.unlink()


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
    if unknown := set(wanted.names) - set(stressors()):
        parser.error(f"no such stressors: {' '.join(sorted(unknown))}")
    failed = 0
    for result in results(wanted.names or stressors()):
        sys.stdout.write(f"{result.stressor}\t{result.outcome.value}\t{result.words}\n")
        sys.stdout.flush()
        write_line(wanted.table, result)
        failed += result.outcome in (Outcome.WRONG, Outcome.HUNG)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
