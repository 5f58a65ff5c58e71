"""What the GPU stack needs of the operating system: by presence, never at a version.

A whole package database, headers of the running and the next kernel, the compiler and Python
headers that torch.compile needs, nouveau kept off, and automatic upgrades kept off GPU packages.
"""

from deploy import apt
from deploy.facts import NodeFacts
from deploy.files import file_step
from deploy.idle import MUST_BE_IDLE
from deploy.interest import GPU_PACKAGES
from deploy.kernels import headers_package, wanted_kernels
from deploy.known import known
from deploy.packages import installed, locked
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


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """Repair first, then what is missing, then the files that keep things so."""
    return [
        *_repaired(facts),
        *_prerequisites(wanted, facts),
        *_nouveau(wanted, facts),
        *_upgrades(wanted, facts),
    ]


def _repaired(facts: NodeFacts) -> list[Step]:
    dpkg = known(facts, "dpkg", facts.dpkg)
    if not dpkg.broken and not dpkg.interrupted:
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


def prerequisites(wanted: Wanted, facts: NodeFacts) -> dict[str, str]:
    """Debian packages that are missing, each with what was looked for in vain."""
    stack, lacking = wanted.stack, {}
    tools = known(facts, "tools", facts.tools)
    if stack.driver is not None:
        kernel = known(facts, "kernel", facts.kernel)
        for release in wanted_kernels(facts):
            if release not in kernel.headers:
                lacking[headers_package(release)] = f"no headers for kernel {release}"
        if any(name.endswith("-dkms") for name in stack.driver.packages) and "dkms" not in tools:
            lacking["dkms"] = "no dkms"
    if stack.repository is not None and stack.repository.url.startswith("https:"):
        packages = known(facts, "packages", facts.packages)
        if not installed(packages.get("ca-certificates")):
            lacking["ca-certificates"] = "no CA certificates"
    if stack.environment is not None:
        python = known(facts, "python", facts.python)
        if not python.venv:
            lacking["python3-venv"] = "python3 cannot make virtual environments"
        if not python.headers:
            lacking["python3-dev"] = "no Python.h, which torch.compile needs"
        if not known(facts, "compiler", facts.compiler):
            lacking |= dict.fromkeys(("g++", "gcc", "make"), "no C++ compiler for torch.compile")
    return lacking


def _prerequisites(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    lacking = prerequisites(wanted, facts)
    if not lacking:
        return []
    values = assign(names=" ".join(sorted(lacking)))
    return [
        Step(
            layer=NAME,
            title=f"{', '.join(sorted(lacking))} installed",
            why="; ".join(dict.fromkeys(lacking.values())),
            commands=(Command(shell=script(values, apt.tools(), _PRESENT), timeout_s=1800),),
        )
    ]


def _nouveau(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    if wanted.stack.driver is None or not known(facts, "pci", facts.pci):
        return []
    modules = known(facts, "modules", facts.modules)
    ours = NOUVEAU in known(facts, "files", facts.files)
    if modules.nouveau_blacklisted and not ours:
        return []
    rebuild = "if command -v update-initramfs >/dev/null; then update-initramfs -u -k all; fi\n"
    return file_step(
        NAME, "nouveau is kept off the GPUs", facts, NOUVEAU, NOUVEAU_TEXT, then=rebuild
    )


def _upgrades(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    if not locked(wanted.stack):
        return []
    return file_step(
        NAME, "automatic upgrades leave GPU packages alone", facts, UPGRADES, UPGRADES_TEXT
    )
