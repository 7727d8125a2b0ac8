#!/bin/bash
# Make this checkout ready to run: Debian packages where missing, a virtual environment in .venv.
# Fit to run again: when nothing changed since the last run, it ends at once.
#
#   scripts/setup.sh [DEBIAN-PACKAGE...]    the packages named are installed too
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
venv=$root/.venv
stamp=$venv/.stamp
packages=(gcc libc6-dev pkg-config libfuse3-dev fuse3 python3-dev python3-venv "$@")

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

is_installed() {
    [[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

# Prints the packages of "$@" that are not installed.
missing_of() {
    local package
    for package in "$@"; do
        is_installed "$package" || printf '%s\n' "$package"
    done
}

# Installs "$@" without letting a package start a service of its own.
apt_install() {
    local policy=/usr/sbin/policy-rc.d made=
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=yes
    fi
    local status=0
    DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -q --no-install-recommends "$@" >&2 || status=$?
    [[ -z $made ]] || rm -f "$policy"
    return "$status"
}

install_packages() {
    local -a missing
    mapfile -t missing < <(missing_of "${packages[@]}")
    ((${#missing[@]})) || return 0
    command -v apt-get >/dev/null || die "install these by hand: ${missing[*]}"
    ((EUID == 0)) || die "run as root once, or install by hand: ${missing[*]}"
    say "installing Debian packages: ${missing[*]}"
    apt_install "${missing[@]}" && return 0
    say "refreshing the package lists"
    apt-get update -q >&2
    apt_install "${missing[@]}"
}

# A Python is fit when it is 3.11 or newer, has its C headers and can make virtual environments.
is_fit_python() {
    "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
header = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not (sys.version_info >= (3, 11) and os.path.exists(header)))
PYTHON
}

find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
        if command -v "$candidate" >/dev/null && is_fit_python "$candidate"; then
            command -v "$candidate"
            return 0
        fi
    done
    die "no python3 >= 3.11 with headers and venv found; set PYTHON to one"
}

# What the environment depends on: the checkout's place, the interpreter, what is to be installed.
fingerprint() {
    "$1" - "$root" <<'PYTHON'
import hashlib, pathlib, sys, tomllib
root = sys.argv[1]
text = (pathlib.Path(root) / "pyproject.toml").read_text()
parts = tomllib.loads(text)
wanted = (root, sys.version, parts["project"], parts["build-system"], parts["tool"]["setuptools"])
print(hashlib.sha256(repr(wanted).encode()).hexdigest())
PYTHON
}

build_environment() {
    local python wanted
    python=$(find_python)
    wanted=$(fingerprint "$python")
    if [[ -x $venv/bin/python && -f $stamp && $(<"$stamp") == "$wanted" ]]; then
        return 0
    fi
    say "building $venv with $python"
    rm -f "$stamp"
    if ! [[ -x $venv/bin/python ]] || ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear "$venv"
    fi
    "$venv/bin/python" -m pip install -q --disable-pip-version-check \
        --editable "${root}[fuse,dev]" >&2
    printf '%s\n' "$wanted" >"$stamp"
}

main() {
    install_packages
    mkdir -p "$venv"
    # One at a time: a second caller waits, then finds the work done.
    exec 9>"$venv.lock"
    flock 9
    build_environment
}

main
