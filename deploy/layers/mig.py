"""MIG: every GPU cut into the wished instances, each with its default compute instance.

On Ampere the mode lasts over reboots, on Hopper and later as long as the driver is loaded; the
instances never outlive either (MIG user guide, "Deployment Considerations" and "Getting Started
with MIG", 2026-11). So a script of ours makes them again at boot (deploy/layers/settings.py). While
another client has the GPU open, a change of the mode stays pending until the next boot.
"""

from collections.abc import Iterable

from deploy.known import UnknownFact
from deploy.probing.setting_facts import GpuSettings

CLIENTS = ("nvidia-dcgm", "dcgm-exporter")
"""Units that keep GPUs open and must be stopped for a change of the mode; the persistence daemon
need not be (mig-parted's list of driver clients; MIG user guide, 2026-11)."""

SHELL = """\
instances() {
    nvidia-smi mig -i "$1" -lgi 2>/dev/null |
        sed -n 's/^|  *[0-9][0-9]*  *MIG \\([^ ]*\\) .*/\\1/p' | sort | xargs
}
devices() {
    nvidia-smi -L | awk -v gpu="GPU $1:" '
        /^GPU / { mine = index($0, gpu) == 1 } mine && $1 == "MIG" { print $2 }' | sort | xargs
}
mode() {
    nvidia-smi -i "$1" --query-gpu=mig.mode.current --format=csv,noheader
}
partition() {
    was=$(mode "$1")
    want=Disabled
    [ -z "$layout" ] || want=Enabled
    case "$was" in
        Enabled | Disabled) ;;
        *) [ -n "$layout" ] || return 0
           echo "GPU $1 knows no MIG" >&2
           return 1 ;;
    esac
    sorted=$(printf '%s\\n' $layout | sort | xargs)
    if [ "$was" = Enabled ]; then
        if [ -n "$layout" ] && [ "$(instances "$1")" = "$sorted" ] &&
            [ "$(devices "$1")" = "$sorted" ]; then
            return 0
        fi
        if [ -n "$(instances "$1")" ]; then
            [ -z "$(devices "$1")" ] || nvidia-smi mig -i "$1" -dci
            nvidia-smi mig -i "$1" -dgi
        fi
    fi
    if [ "$was" != "$want" ]; then
        number=0
        [ "$want" = Disabled ] || number=1
        nvidia-smi -i "$1" -mig "$number"
        if [ "$(mode "$1")" != "$want" ]; then
            echo "GPU $1: its MIG mode takes effect at the next boot"
            return 0
        fi
    fi
    [ -n "$layout" ] || return 0
    if ! nvidia-smi mig -i "$1" -cgi "$(echo $layout | tr ' ' ,)" -C; then
        echo "GPU $1 cannot be cut into $layout; it offers:" >&2
        nvidia-smi mig -i "$1" -lgip >&2 || :
        return 1
    fi
}
partition_all() {
    every=$(nvidia-smi --query-gpu=index --format=csv,noheader)
    for gpu in $every; do partition "$gpu"; done
}
"""
"""Shell text that defines `partition_all`; `$layout` holds the profiles, largest first, or nothing
to switch MIG off."""


def layout(profiles: Iterable[str]) -> str:
    """Profiles in the order in which they are made: the largest first, for what comes later must
    find room (MIG user guide, "the order of creation matters")."""
    return " ".join(sorted(profiles, key=lambda name: (-int(name.partition("g")[0]), name)))


def as_wished(gpu: GpuSettings, wish: tuple[str, ...]) -> bool:
    """The GPU is cut as wished, or will be by the boot for which its mode waits."""
    if gpu.mig is not None and gpu.mig != gpu.mig_pending and gpu.mig_pending == bool(wish):
        return True
    if not wish:
        return not gpu.mig
    if not gpu.mig:
        return False
    if gpu.mig_instances is None:
        raise UnknownFact("gpu_settings.mig_instances", "only root sees the MIG instances")
    return gpu.mig_instances == gpu.mig_devices == tuple(sorted(wish))


def told(gpu: GpuSettings) -> str:
    """What was found, for a step's reason."""
    if not gpu.mig:
        return f"GPU {gpu.index}: MIG is off"
    return f"GPU {gpu.index}: {', '.join(gpu.mig_instances or ()) or 'MIG without instances'}"


def wrong(gpu: GpuSettings, wish: tuple[str, ...]) -> str:
    """Why a GPU cannot be cut so, "" when it can as far as it tells."""
    if not wish:
        return ""
    if gpu.mig is None:
        return f"{gpu.name} knows no MIG"
    strange = sorted(set(wish) - set(gpu.mig_profiles))
    if gpu.mig_profiles and strange:
        return f"{gpu.name} has no profile {', '.join(strange)}; it offers " + ", ".join(
            gpu.mig_profiles
        )
    return ""
