"""The console script `slfs`, also `python -m slfs`: the filesystem on real partitions."""

import sys

from slfs.fs import run
from sls.partition import Partition


def main() -> int:
    """Mount as the command line says; returns the exit status."""
    return run(sys.argv[1:], Partition)


if __name__ == "__main__":
    sys.exit(main())
