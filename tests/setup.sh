#!/bin/sh
# Prepares this machine for the tests, and takes everything away again.
#
#   tests/setup.sh PYTHON    system packages for the simulated fleet and the browser test (root or
#                            sudo), torch into PYTHON's environment
#   tests/setup.sh --venv    only what `python3 -m venv` needs
#   tests/setup.sh --torch PYTHON  only torch: neither root nor packages
#   tests/setup.sh --remove  the fleet, its caches and the packages that this script installed
set -eu
cd "$(dirname "$0")/.."

CACHE="${XDG_CACHE_HOME:-$HOME/.cache}/gpufleet"
INSTALLED="$CACHE/installed-packages"
BROWSER="chromium fonts-dejavu-core"
TORCH="torch==2.13.0"
TORCH_CPU_INDEX="https://download.pytorch.org/whl/cpu"

say() { printf 'set-up: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n -- "$@"; fi
}

may_be_root() {
    [ "$(id -u)" = 0 ] || { command -v sudo >/dev/null && sudo -n true 2>/dev/null; }
}

installed_names() {
    dpkg-query -W -f '${db:Status-Abbrev}${Package}\n' | sed -n 's/^ii *//p' | sort -u
}

# Installs the packages named that are missing, and remembers every package that this brought in.
install_packages() {
    missing=""
    for package in "$@"; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$package" 2>/dev/null | grep -q '^ii' ||
            missing="$missing $package"
    done
    [ -n "$missing" ] || return 0
    if ! may_be_root; then
        say "without root or passwordless sudo these stay away:$missing (tests that need them are skipped)"
        return 0
    fi
    command -v apt-get >/dev/null || { say "no apt-get here: install$missing by hand"; return 0; }
    say "installing$missing"
    mkdir -p "$CACHE"
    installed_names > "$CACHE/.before"
    as_root apt-get -qq -o DPkg::Lock::Timeout=300 update
    # shellcheck disable=SC2086  # a list of names on purpose
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y -o DPkg::Lock::Timeout=300 \
        install --no-install-recommends $missing > "$CACHE/apt.log" 2>&1 ||
        { tail -20 "$CACHE/apt.log" >&2; say "apt-get failed; whole log: $CACHE/apt.log"; exit 1; }
    installed_names | comm -13 "$CACHE/.before" - >> "$INSTALLED"
    rm -f "$CACHE/.before" "$CACHE/apt.log"
    case " $missing " in
        *" openssh-server "*)
            # Only its program is needed: nobody asked for a login service on this machine.
            if [ -d /run/systemd/system ]; then
                as_root systemctl disable --now ssh.service ssh.socket >/dev/null 2>&1 || :
            fi
            ;;
    esac
}

install_torch() {
    "$1" -c 'import torch' 2>/dev/null && return 0
    # A wheel folder that the machine's pip is configured with comes first: pip looks there when it
    # may ask no index. Nothing found: the vendor's index of CPU builds.
    if "$1" -m pip install -q --dry-run --no-index --no-deps "$TORCH" >/dev/null 2>&1; then
        say "$TORCH from the configured wheel folder"
        "$1" -m pip install -q --disable-pip-version-check "$TORCH"
    else
        say "$TORCH from the vendor's CPU index"
        "$1" -m pip install -q --disable-pip-version-check --index-url "$TORCH_CPU_INDEX" "$TORCH"
    fi
}

remove_all() {
    if [ -x .venv/bin/python ] && [ -d "$CACHE/sim" ]; then
        .venv/bin/python -m tests.sim purge
    fi
    if [ -s "$INSTALLED" ]; then
        if may_be_root; then
            say "removing the packages that set-up installed"
            # shellcheck disable=SC2046  # a list of names on purpose
            as_root env DEBIAN_FRONTEND=noninteractive apt-get -qq -y purge $(sort -u "$INSTALLED") \
                > /dev/null
        else
            say "these were installed by set-up and need root to go: $(tr '\n' ' ' < "$INSTALLED")"
            return 0
        fi
    fi
    rm -rf "$CACHE"
}

case "${1:-}" in
    --venv) install_packages python3-venv ;;
    --torch) install_torch "$2" ;;
    --remove) remove_all ;;
    "") say "usage: tests/setup.sh PYTHON | --venv | --torch PYTHON | --remove"; exit 2 ;;
    *)
        # shellcheck disable=SC2046,SC2086  # lists of names on purpose
        install_packages $("$1" -m tests.sim packages) $BROWSER
        install_torch "$1"
        ;;
esac
