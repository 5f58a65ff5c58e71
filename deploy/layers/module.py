"""The driver's kernel module: on disk for the running and the next kernel, and loaded.

DKMS fails silently until the next boot, so the module of the next kernel is looked at as well
(research: provisioning 2.12). A module that is in use stays loaded: the next boot brings the new
one, which the plan decides from what is loaded.
"""

from collections.abc import Iterable

from deploy.facts import Flavour, Modules, NodeFacts
from deploy.idle import MUST_BE_IDLE, SERVICES
from deploy.known import known
from deploy.layers import module_options
from deploy.layers.kernels import wanted_kernels
from deploy.packages import difference
from deploy.record import STOPPED, recorder
from deploy.shell import assign, script, words
from deploy.stack import Driver
from deploy.steps import Command, Step, Wanted
from deploy.transact import transaction

MODULES = ("nvidia_peermem", "gdrdrv", "nvidia_fs", "nvidia_drm", "nvidia_modeset", "nvidia_uvm")
"""What is unloaded before the module `nvidia`, in this order (research: provisioning 2.12)."""
BUILD_S = 3600
"""A DKMS build took 8.5 minutes for one kernel on one slow core (design, part 6)."""

_MODULE = """\
flavour_of() { case "$1" in *GPL*) echo open ;; *) echo closed ;; esac; }
built() {
    [ "$(modinfo -k "$1" -F version nvidia 2>/dev/null || :)" = "$version" ] &&
        [ "$(flavour_of "$(modinfo -k "$1" -F license nvidia 2>/dev/null || :)")" = "$flavour" ]
}
"""

BUILD = """\
build() {
    for source in /usr/src/nvidia*-"$version"; do
        [ -f "$source/dkms.conf" ] || continue
        name=${source##*/}
        name=${name%-"$version"}
        dkms remove -m "$name" -v "$version" -k "$1" >/dev/null 2>&1 || :
        dkms add -m "$name" -v "$version" >/dev/null 2>&1 || :
        dkms install --force -m "$name" -v "$version" -k "$1"
    done
    depmod "$1"
}
"""
"""Builds the modules of `$version` for one kernel, whatever was built before."""

_BUILD = (
    _MODULE
    + BUILD
    + """\
for kernel in $kernels; do
    built "$kernel" && continue
    echo "building the modules for kernel $kernel"
    build "$kernel"
    built "$kernel" && continue
    found=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null || :)
    echo "kernel $kernel has module '$found', wanted $version ($flavour); are there sources in" \\
        "/usr/src/nvidia*-$version and headers in /lib/modules/$kernel/build?" >&2
    exit 1
done
"""
)

_THERE = """\
for kernel in $kernels; do
    depmod "$kernel"
    built "$kernel" && continue
    found=$(modinfo -k "$kernel" -F version nvidia 2>/dev/null || :)
    echo "kernel $kernel has module '$found', wanted $version ($flavour): the distribution has" \\
        "no signed modules of that version for it" >&2
    exit 1
done
"""

_LOAD = """\
loaded() { cat /sys/module/nvidia/version 2>/dev/null || :; }
as_wanted() {
    [ "$(loaded)" = "$version" ] || return 1
    for option in $options; do
        name=${option%%=*}
        shown=$(sed -n "s/^$name: //p" /proc/driver/nvidia/params | tr -d '"')
        [ "$shown" = "${option#*=}" ] || return 1
    done
    case "$(cat /proc/driver/nvidia/version)" in
        *'Open Kernel Module'*) [ "$flavour" = open ] ;;
        *) [ "$flavour" = closed ] ;;
    esac
}
later() {
    echo "$1; the module takes effect at the next boot"
    finish
    exit 0
}
finish() {
    for unit in $stopped; do
        systemctl start "$unit" || echo "$unit does not start yet"
    done
    record owed_start ''
}
stopped=
for unit in $(recorded owed_start); do
    case " $services " in *" $unit "*) stopped="$stopped $unit" ;; esac
done
if ! as_wanted; then
"""

_UNLOAD = """\
    if [ -n "$(loaded)" ]; then
        for unit in $services; do
            case " $stopped " in *" $unit "*) continue ;; esac
            if systemctl is-active -q "$unit"; then stopped="$stopped $unit"; fi
        done
        [ -z "$stopped" ] || record owed_start "${stopped# }"
        for unit in $stopped; do systemctl stop "$unit"; done
        for module in $modules nvidia; do
            if [ -d "/sys/module/$module" ] && ! rmmod "$module"; then
                later "module $module is in use and stays loaded"
            fi
        done
    fi
    if [ -d /sys/module/nouveau ] && ! rmmod nouveau; then
        later "nouveau holds the GPUs and cannot be unloaded"
    fi
    if ! modprobe nvidia; then
        echo "the kernel refuses the module; its own words:" >&2
        { dmesg 2>/dev/null | grep -i nvrm || :; } | tail -n 5 >&2
        finish
        exit 1
    fi
    modprobe nvidia-uvm || echo "nvidia-uvm is loaded when CUDA first needs it"
fi
finish
if ! as_wanted; then
    echo "loaded is '$(loaded)', wanted $version ($flavour) ${options:+with $options}" >&2
    [ -z "$options" ] || grep -rs NVreg_ /etc/modprobe.d /usr/lib/modprobe.d >&2 || :
    exit 1
fi
"""


def make_log(driver: Driver) -> str:
    """Where DKMS explains a failed build, as a glob on the host."""
    return f"/var/lib/dkms/nvidia*/{driver.version}/build/make.log"


def steps(layer: str, wanted: Wanted, facts: NodeFacts, *, changes: bool) -> list[Step]:
    """On disk for both kernels, then loaded with its options; `changes` tells that the packages
    change as well. Nothing without a driver."""
    driver = wanted.stack.driver
    if driver is None:
        return []
    built = _built(layer, wanted, facts, driver, changes=changes)
    return built + (_loaded(layer, wanted, facts, driver) or _owed(layer, facts))


def built_for(modules: Modules, kernel: str, driver: Driver) -> bool:
    """The wanted module is on disk for this kernel."""
    return any(
        module.kernel == kernel
        and module.version == driver.version
        and module.flavour in {driver.flavour, None}
        for module in modules.installed
    )


def _built(
    layer: str, wanted: Wanted, facts: NodeFacts, driver: Driver, *, changes: bool
) -> list[Step]:
    modules = known(facts, "modules", facts.modules)
    kernels = wanted_kernels(facts)
    lacking = [name for name in kernels if not built_for(modules, name, driver)]
    if not lacking:
        return []
    found = ", ".join(f"{name}: {_on_disk(modules, name)}" for name in lacking)
    if driver.prebuilt:
        return _signed(layer, wanted, facts, driver, kernels, why=found, changes=changes)
    values = assign(version=driver.version, flavour=driver.flavour, kernels=" ".join(kernels))
    return [
        Step(
            layer=layer,
            title=f"modules {driver.version} ({driver.flavour}) exist for kernel "
            + " and ".join(kernels),
            why=found,
            commands=(
                Command(
                    shell=script(values, _BUILD),
                    timeout_s=BUILD_S,
                    log=make_log(driver),
                ),
            ),
            # Building for a module that is not loaded touches nobody; while packages change it
            # belongs to them.
            disruptive=changes and modules.loaded_version != "",
        )
    ]


def prebuilt_packages(driver: Driver, kernels: Iterable[str]) -> list[str]:
    """The distribution's packages of signed modules for some kernels; [] where DKMS builds them."""
    return [driver.prebuilt.replace("{kernel}", kernel) for kernel in kernels if driver.prebuilt]


def _signed(
    layer: str,
    wanted: Wanted,
    facts: NodeFacts,
    driver: Driver,
    kernels: list[str],
    *,
    why: str,
    changes: bool,
) -> list[Step]:
    """Signed modules of the distribution, a package for each kernel, at the version that its own
    dependencies tie to the driver's."""
    values = assign(version=driver.version, flavour=driver.flavour, kernels=" ".join(kernels))
    lacks = difference({}, known(facts, "packages", facts.packages))
    install = transaction(wanted.stack, {}, lacks, also=prebuilt_packages(driver, kernels))
    return [
        Step(
            layer=layer,
            title=f"signed modules {driver.version} ({driver.flavour}) exist for kernel "
            + " and ".join(kernels),
            why=why,
            commands=(install, Command(shell=script(values, _MODULE, _THERE), timeout_s=60)),
            disruptive=changes and known(facts, "modules", facts.modules).loaded_version != "",
        )
    ]


def _on_disk(modules: Modules, kernel: str) -> str:
    found = [module for module in modules.installed if module.kernel == kernel]
    return " and ".join(_named(m.version, m.flavour) for m in found) or "no module on disk"


def _named(version: str, flavour: Flavour | None) -> str:
    return f"{version} ({flavour or 'flavour unknown'})"


def runs(modules: Modules, driver: Driver) -> bool:
    """The wanted module is the loaded one."""
    return modules.loaded_version == driver.version and modules.loaded_flavour in {
        driver.flavour,
        None,
    }


def _loaded(layer: str, wanted: Wanted, facts: NodeFacts, driver: Driver) -> list[Step]:
    modules = known(facts, "modules", facts.modules)
    kernel = known(facts, "kernel", facts.kernel)
    options = module_options.parameters(wanted.spec.module_options)
    other = module_options.differing(wanted, facts)
    if (runs(modules, driver) and not other) or kernel.running not in wanted_kernels(facts):
        return []
    if runs(modules, driver):
        why = "loaded with " + ", ".join(f"{name}={found}" for name, found in other.items())
    elif modules.loaded_version:
        why = f"{_named(modules.loaded_version, modules.loaded_flavour)} is loaded"
    elif modules.nouveau_loaded:
        why = "nouveau is loaded"
    else:
        why = "no nvidia module is loaded"
    values = assign(
        version=driver.version,
        flavour=driver.flavour,
        services=" ".join(SERVICES),
        modules=" ".join(MODULES),
        options=" ".join(f"{name}={value}" for name, value in options.items()),
    )
    unload = modules.loaded_version != ""
    return [
        Step(
            layer=layer,
            title=f"driver {driver.version} ({driver.flavour} modules) is loaded"
            + (" with its options" if options else ""),
            why=why,
            commands=(
                Command(
                    shell=script(
                        recorder(), values, _LOAD, MUST_BE_IDLE if unload else "", _UNLOAD
                    ),
                    timeout_s=600,
                ),
            ),
            disruptive=unload,
        )
    ]


def _owed(layer: str, facts: NodeFacts) -> list[Step]:
    """Services that a cut-off run had stopped and not started again."""
    state = known(facts, "state", facts.state)
    names = [name for name in state.get(STOPPED, "").split() if name in SERVICES]
    if not names:
        return []
    return [
        Step(
            layer=layer,
            title=f"{', '.join(names)} run again",
            why="a run that was cut off had stopped them to change the driver",
            commands=(
                Command(
                    shell=script(
                        recorder(),
                        f"for unit in {words(names)}; do",
                        '    systemctl start "$unit" || echo "$unit does not start yet"',
                        "done",
                        f"record {STOPPED} ''",
                    ),
                    timeout_s=300,
                ),
            ),
        )
    ]
