#!/bin/bash
# The whole gate in one command: set-up, lint, types, tests.
#
#   scripts/test.sh [PYTEST-ARGUMENT...]
#
# Where root or /dev/fuse is missing, the tests that need them skip and say so; with $CI set, such
# a skip is a failure.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
cd "$root"

# The programs that the tests checkpoint and inspect.
scripts/setup.sh redis-server redis-tools sqlite3 gdb elfutils rsync perl nodejs memcached nginx-light xz-utils postgresql vim default-jdk-headless stress-ng tmux screen bubblewrap
export PATH="$root/.venv/bin:$PATH"
[[ -z ${CI:-} ]] || export SLS_REQUIRE=${SLS_REQUIRE:-root,fuse}

ruff check .
ruff format --check .
mypy
mypy --scripts-are-modules tools/slsctl
exec python -m pytest "$@"
