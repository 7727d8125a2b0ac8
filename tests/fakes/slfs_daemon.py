"""The daemon on fake partitions: `python -m tests.fakes.slfs_daemon STORE MOUNTPOINT …`."""

import sys

from slfs.fs import run
from tests.fakes.partition import FakePartition

if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], FakePartition))
