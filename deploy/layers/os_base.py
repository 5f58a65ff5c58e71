"""What the GPU stack needs of the operating system: by presence, never at a version.

A whole package database, headers of the running and the next kernel, the compiler and Python
headers that torch.compile needs, nouveau kept off, and automatic upgrades kept off GPU packages.

dnf-automatic needs no file of ours: it honours versionlock (dnf pull request 1477, in dnf 4.2.18 of
2020), so the layer of pins keeps it off exactly what the lock names. rpm keeps no half-configured
state; a package that an interrupted transaction left in two versions is mended by the transaction
that brings the locked one.
"""

from deploy import apt, dnf
from deploy.facts import NodeFacts
from deploy.idle import MUST_BE_IDLE
from deploy.interest import GPU_PACKAGES
from deploy.known import known
from deploy.layers.files import file_step
from deploy.layers.module_options import initramfs
from deploy.layers.prerequisites import prerequisites, sources_first
from deploy.packages import locked
from deploy.shell import assign, script
from deploy.steps import Command, Step, Wanted

NAME = "os-base"
NOUVEAU = "/etc/modprobe.d/gpufleet-nouveau.conf"
NOUVEAU_TEXT = """\
# nouveau must not bind the GPUs. Written by gpufleet, which keeps this file as it is.
blacklist nouveau
options nouveau modeset=0
"""
"""Source: the vendor's installation guide, "Disabling Nouveau" (research: provisioning 2.12)."""
UPGRADES = "/etc/apt/apt.conf.d/52gpufleet-unattended-upgrades"
UPGRADES_TEXT = (
    "// An automatic upgrade must not move GPU packages under running jobs. Written by gpufleet,\n"
    "// which keeps this file as it is.\n"
    "Unattended-Upgrade::Package-Blacklist {\n"
    + "".join(f'    ".*{name}";\n' for name in GPU_PACKAGES.split("|"))
    + "};\n"
)
"""unattended-upgrades matches these expressions from the start of a package's name."""

_REPAIR = """\
patiently dpkg --configure -a || echo "dpkg left something unconfigured; going on"
if ! apt-get check -q >/dev/null 2>&1; then
    if apt -s --no-remove --fix-broken install >"$work/plan" 2>&1 &&
        ! awk '$1 == "Inst" || $1 == "Remv" { print $2 }' "$work/plan" | grep -Eq "$gpu"; then
        patiently apt --no-remove --fix-broken install
    else
        echo "GPU packages are involved: they are brought to their locked versions next"
    fi
fi
left=$(dpkg-query -W -f '${db:Status-Abbrev} ${Package}\\n' |
    awk '$1 !~ /^.[incWt]$/ || $1 ~ /R/ { print $2 }' | grep -Ev "$gpu" || :)
if [ -n "$left" ]; then
    echo "still broken: $(echo $left)" >&2
    exit 1
fi
"""

_PRESENT = """\
lacking() {
    for name in $names; do
        dpkg-query -W -f '${db:Status-Abbrev}' "$name" 2>/dev/null | grep -q '^.i' || echo "$name"
    done
}
add() {
    patiently apt --no-remove --no-install-recommends --fix-broken install $(lacking)
}
if ! apt -s --no-remove --no-install-recommends --fix-broken install $names >/dev/null 2>&1; then
    refresh
fi
if ! add; then
    [ -n "$(lacking)" ] && refresh && add || :
fi
if [ -n "$(lacking)" ]; then
    echo "not installed: $(lacking | tr '\\n' ' ')" >&2
    exit 1
fi
"""

_RPM_PRESENT = """\
lacking() {
    for name in $names; do
        rpm -q --quiet "$name" || rpm -q --quiet --whatprovides "$name" || echo "$name"
    done
}
add() {
    patiently dnf4 "$@" install $(lacking)
}
add || { [ -n "$(lacking)" ] && add --refresh; } || :
if [ -n "$(lacking)" ]; then
    echo "not installed: $(lacking | tr '\\n' ' ')" >&2
    exit 1
fi
"""


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Repair first, then what is missing, then the files that keep things so."""
    return [
        *_repaired(wanted, facts),
        *_prerequisites(wanted, facts),
        *_nouveau(wanted, facts),
        *_upgrades(wanted, facts),
    ]


def _repaired(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    dpkg = known(facts, "dpkg", facts.dpkg)
    if wanted.stack.packaging != "apt" or not (dpkg.broken or dpkg.interrupted):
        return []
    said = ["dpkg was interrupted"] if dpkg.interrupted else []
    if dpkg.broken:
        said.append(f"left half-done: {', '.join(dpkg.broken[:5])}")
    touches_gpus = dpkg.interrupted or any(_is_gpu(name) for name in dpkg.broken)
    return [
        Step(
            layer=NAME,
            title="package database is whole",
            why="; ".join(said),
            commands=(
                Command(
                    shell=script(
                        MUST_BE_IDLE if touches_gpus else "",
                        assign(gpu=GPU_PACKAGES),
                        apt.tools(),
                        _REPAIR,
                    ),
                    timeout_s=3600,
                    log="/var/lib/dkms/nvidia*/*/build/make.log",
                ),
            ),
            disruptive=touches_gpus,
        )
    ]


def _is_gpu(name: str) -> bool:
    return any(part in name for part in GPU_PACKAGES.split("|"))


def _prerequisites(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    first, rest = sources_first(wanted, facts), prerequisites(wanted, facts)
    return [_present(wanted, lacking) for lacking in (first, rest) if lacking]


def _present(wanted: Wanted, lacking: dict[str, str]) -> Step:
    by_apt = wanted.stack.packaging == "apt"
    words_of, present = (apt.tools(), _PRESENT) if by_apt else (dnf.tools(), _RPM_PRESENT)
    values = assign(names=" ".join(sorted(lacking)))
    return Step(
        layer=NAME,
        title=f"{', '.join(sorted(lacking))} installed",
        why="; ".join(dict.fromkeys(lacking.values())),
        commands=(Command(shell=script(values, words_of, present), timeout_s=1800),),
    )


def _nouveau(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    if wanted.stack.driver is None or not known(facts, "pci", facts.pci):
        return []
    modules = known(facts, "modules", facts.modules)
    ours = NOUVEAU in known(facts, "files", facts.files)
    if modules.nouveau_blacklisted and not ours:
        return []
    rebuild = initramfs(wanted.stack)
    return file_step(
        NAME, "nouveau is kept off the GPUs", facts, NOUVEAU, NOUVEAU_TEXT, then=rebuild
    )


def _upgrades(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    if wanted.stack.packaging != "apt" or not locked(wanted.stack):
        return []
    return file_step(
        NAME, "automatic upgrades leave GPU packages alone", facts, UPGRADES, UPGRADES_TEXT
    )
