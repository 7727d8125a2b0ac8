#!/bin/bash
# Mount a store: set up what is missing, make the store if there is none, wait until it answers.
#
#   scripts/mount-slfs.sh [--store FILE] [--foreground] [--demo] [MOUNTPOINT]
#
#   --store FILE   the object file (default: /var/lib/slfs/default.slos)
#   --foreground   stay until unmounted or interrupted
#   --demo         then show a process being kept, killed and brought back
#   MOUNTPOINT     where (default: /slfs); made when it does not exist
#
# Run again on a mounted slfs it changes nothing. Unmount with umount MOUNTPOINT.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
store=/var/lib/slfs/default.slos
mountpoint=/slfs
foreground=
demo=

say() { printf '%s\n' "$*"; }
die() { printf 'mount-slfs: %s\n' "$*" >&2; exit 1; }
usage() { sed -n '2,/^set/{/^set/d; s/^# \{0,1\}//; p}' "$0"; }

parse_arguments() {
    local place=
    while (($#)); do
        case $1 in
            --store) [[ ${2-} ]] || misuse "--store needs a file"; store=$2; shift ;;
            --store=*) store=${1#*=} ;;
            --foreground | -f) foreground=yes ;;
            --demo) demo=yes ;;
            -h | --help) usage; exit 0 ;;
            -*) misuse "$1 is no option" ;;
            *) [[ -z $place ]] || misuse "more than one mountpoint"; place=$1 ;;
        esac
        shift
    done
    mountpoint=${place:-$mountpoint}
    [[ -z $foreground || -z $demo ]] || misuse "--foreground and --demo exclude each other"
}

misuse() { printf 'mount-slfs: %s\n' "$*" >&2; usage >&2; exit 2; }

# Prints the store mounted on "$mountpoint", if an slfs is mounted there.
mounted_store() {
    findmnt --noheadings --output SOURCE --types fuse.slfs --mountpoint "$mountpoint" 2>/dev/null
}

check_machine() {
    ((EUID == 0)) || die "run as root: processes of all users are kept"
    if [[ ! -e /dev/fuse ]]; then
        modprobe fuse 2>/dev/null || true
        [[ -e /dev/fuse ]] || die "/dev/fuse is missing; load the kernel's fuse module"
    fi
}

mount_store() {
    local current
    mkdir -p "$(dirname "$store")"
    store=$(realpath "$store")
    # A directory behind a dead mount cannot be made; slfs clears it away.
    mkdir -p "$mountpoint" 2>/dev/null || true
    mountpoint=$(realpath -s "$mountpoint")
    if current=$(mounted_store) && stat -t "$mountpoint" >/dev/null 2>&1; then
        [[ $current == "$store" ]] || die "$mountpoint holds $current; choose another place"
        say "$store is mounted on $mountpoint."
        return
    fi
    if [[ $foreground ]]; then
        say "Mounting $store on $mountpoint; end with ^C."
        exec "$root/.venv/bin/slfs" "$store" "$mountpoint" --foreground
    fi
    "$root/.venv/bin/slfs" "$store" "$mountpoint"
    [[ -e $mountpoint/README ]] || die "$mountpoint does not answer"
    say "$store is mounted on $mountpoint."
}

print_next_steps() {
    cat <<EOT

Keep a process (PID is any running process of yours):
    mkdir $mountpoint/partitions/1
    echo PID > $mountpoint/partitions/1/attach
    touch $mountpoint/partitions/1/checkpoint
Kill it, and bring it back:
    kill -9 PID
    echo daemon > $mountpoint/partitions/1/restore
Look:
    cat $mountpoint/README
    ls $mountpoint/partitions/1/generations/latest
    $root/tools/slsctl ps
EOT
}

main() {
    parse_arguments "$@"
    check_machine
    "$root/scripts/setup.sh"
    mount_store
    if [[ $demo ]]; then
        exec "$root/scripts/demo.sh" "$mountpoint"
    fi
    print_next_steps
}

main "$@"
