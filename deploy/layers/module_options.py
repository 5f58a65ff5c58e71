"""Options of the kernel module `nvidia`: a file of ours, and what the loaded module shows of them.

The layer comes before the driver's, so that a driver which is installed is loaded with them; a
module that is loaded without is loaded again by the driver's layer (deploy/layers/module.py).
"""

from deploy.catalog import load
from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers.files import file_step
from deploy.shell import assign, script, words
from deploy.stack import Blocked, Stack
from deploy.steps import Command, Step, Wanted

NAME = "module-options"
PATH = "/etc/modprobe.d/gpufleet-nvidia.conf"
PREFIX = "NVreg_"
"""The module's options carry it, /proc/driver/nvidia/params shows them without (the vendor's
driver README, "Configuring the driver's kernel module", branch 580, 2026-11)."""


def initramfs(stack: Stack) -> str:
    """Shell text that makes the early-boot images anew, which may hold modules and their options
    (research: provisioning 2.12); nothing where there are none."""
    command = load().named(stack.distribution).base.initramfs
    return f"if command -v {command[0]} >/dev/null; then {words(command)}; fi\n"


def text(options: tuple[str, ...]) -> str:
    """The file, its options in a fixed order."""
    return (
        "# Options of the GPU driver. Written by gpufleet, which keeps this file as it is.\n"
        f"options nvidia {' '.join(sorted(options))}\n"
    )


def steps(wanted: Wanted, facts: NodeFacts) -> list[Step]:
    """The file while options are wished for, none otherwise."""
    options = wanted.spec.module_options
    if options and wanted.stack.driver is not None:
        return file_step(
            NAME,
            f"module nvidia gets {', '.join(sorted(options))} whenever it is loaded",
            facts,
            PATH,
            text(options),
            then=initramfs(wanted.stack),
        )
    if PATH not in known(facts, "files", facts.files):
        return []
    # It goes last: while it is there, a run that was cut off in between is repeated.
    goes = script(assign(path=PATH), ': >"$path"\n', initramfs(wanted.stack), 'rm -f -- "$path"\n')
    return [
        Step(
            layer=NAME,
            title="module nvidia gets no options of ours",
            why=f"{PATH} exists, but no module_options are wished; the loaded module keeps its "
            "values until it is loaded again",
            commands=(Command(shell=goes, timeout_s=600),),
        )
    ]


def parameters(options: tuple[str, ...]) -> dict[str, str]:
    """Wished options as the loaded module shows them: numbers in decimal, names without prefix."""
    pairs = (option.removeprefix(PREFIX).partition("=")[::2] for option in options)
    return {name: _shown(value) for name, value in sorted(pairs)}


def _shown(value: str) -> str:
    try:
        return str(int(value, 0))
    except ValueError:
        return value


def differing(wanted: Wanted, facts: NodeFacts) -> dict[str, str]:
    """Wished parameters that the loaded module has at another value, with that value; "" for one
    that it does not know. Empty while none is loaded."""
    wished = parameters(wanted.spec.module_options)
    if not wished:
        return {}
    shown = known(facts, "module_params", facts.module_params)
    if not shown:
        return {}
    return {name: shown.get(name, "") for name, value in wished.items() if shown.get(name) != value}


def refused(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """Blocked when the wanted driver is loaded and knows no such option."""
    driver = wanted.stack.driver
    modules = known(facts, "modules", facts.modules)
    if driver is None or modules.loaded_version != driver.version:
        return None
    shown = facts.module_params or {}
    strange = [PREFIX + name for name in differing(wanted, facts) if name not in shown]
    if not strange:
        return None
    return Blocked(
        host=wanted.host,
        reason=f"driver {driver.version} has no option {', '.join(strange)}",
        rule="an option that the module does not know is ignored by the kernel and would never "
        "come true",
        source="/proc/driver/nvidia/params of this host; inventory key module_options",
        unblock=(f"ssh {wanted.host} cat /proc/driver/nvidia/params", "mend module_options"),
    )
