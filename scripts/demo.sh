#!/bin/bash
# The main job in front of your eyes: start, attach, checkpoint, kill -9, restore, on a mounted slfs.
#
#   scripts/demo.sh MOUNTPOINT
#
# Every line after a $ is run as printed. What it makes, it removes again.
set -euo pipefail

mountpoint=${1:?usage: scripts/demo.sh MOUNTPOINT}
work=$(mktemp -d /tmp/slfs-demo.XXXXXX)
output=$work/output
oid=
pid=

title() { printf '\n\033[1m%s\033[0m\n' "$*"; }
die() { printf 'demo: %s\n' "$*" >&2; exit 1; }

# Print a command line, then run it in this shell.
run() {
    printf '$ %s\n' "$*"
    eval "$*"
}

clean_up() {
    [[ -z $pid ]] || kill -9 "$pid" 2>/dev/null || true
    [[ -z $oid || ! -d $mountpoint/partitions/$oid ]] || rmdir "$mountpoint/partitions/$oid"
    rm -rf "$work"
}
trap clean_up EXIT

# wait_for COMMAND…: until it succeeds, ten seconds at most.
wait_for() {
    local deadline=$((SECONDS + 10))
    until "$@" 2>/dev/null; do
        ((SECONDS < deadline)) || die "waited in vain for: $*"
        sleep 0.05
    done
}

lines() { wc -l <"$output"; }
has_lines() { (($(lines) >= $1)); }
is_gone() { ! kill -0 "$1" 2>/dev/null; }

free_oid() {
    local candidate=1
    while [[ -e $mountpoint/partitions/$candidate ]]; do
        candidate=$((candidate + 1))
    done
    printf '%s\n' "$candidate"
}

# A program with state that lives in its memory alone: a counter and a running sum.
write_program() {
    cat >"$work/count.py" <<'PYTHON'
import sys
import time

total = number = 0
while True:
    number += 1
    total += number * number
    print(f"{number} {total}", flush=True)
    time.sleep(0.1)
PYTHON
}

# Every line follows from the one before: what a restore brings back goes on without a gap.
check_output() {
    awk '{ sum = $1 == 1 ? 1 : sums[$1 - 1] + $1 * $1
           if ($1 > last + 1 || $2 != sum) { print "wrong line " NR ": " $0; exit 1 }
           sums[$1] = $2; last = $1 }' "$output"
}

main() {
    [[ -d $mountpoint/partitions ]] || die "$mountpoint is no mounted slfs"
    oid=$(free_oid)
    local partition=$mountpoint/partitions/$oid before after
    write_program

    title "A program that counts, with all its state in memory"
    run "setsid python3 $work/count.py > $output 2>&1 < /dev/null &"
    pid=$!
    wait_for has_lines 5
    run "tail -n 2 $output"

    title "Make a partition, let the program join, take a generation"
    run "mkdir $partition"
    run "echo $pid > $partition/attach"
    run "cat $partition/attach"
    run "touch $partition/checkpoint"
    run "ls $partition/generations"
    run "cat $partition/generations/latest/info"
    run "ls $partition/generations/latest/processes/$pid"

    title "Kill it"
    wait_for has_lines $(($(lines) + 3))
    run "kill -9 $pid"
    wait "$pid" 2>/dev/null || true
    wait_for is_gone "$pid"
    run "tail -n 2 $output"
    before=$(lines)

    title "Bring it back: the same pid, the same memory"
    run "echo daemon > $partition/restore"
    run "cat $partition/restore"
    wait_for has_lines $((before + 5))
    run "tail -n 3 $output"
    after=$(lines)
    check_output || die "the output has a gap"

    title "It went on where it was: $before lines before, $after now, each sum right."
    run "kill $pid"
    run "rmdir $partition"
}

main
