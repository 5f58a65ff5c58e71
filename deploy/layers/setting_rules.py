"""What settings of GPUs a host cannot have, what waits for a boot, and what will not last. Pure."""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import mig, module, module_options
from deploy.packages import difference
from deploy.probing.setting_facts import GpuSettings
from deploy.stack import Blocked
from deploy.steps import Reboot, Wanted


def settled(wanted: Wanted, facts: NodeFacts) -> bool:
    """The wanted driver is loaded and this plan will not load it anew: its answers count."""
    driver = wanted.stack.driver
    return (
        driver is not None
        and module.runs(known(facts, "modules", facts.modules), driver)
        and not difference(driver.packages, known(facts, "packages", facts.packages))
        and not module_options.differing(wanted, facts)
    )


def answers(wanted: Wanted, facts: NodeFacts) -> tuple[GpuSettings, ...] | None:
    """What the wanted driver says, None before it is there."""
    if not settled(wanted, facts):
        return None
    return known(facts, "gpu_settings", facts.gpu_settings)


def refused(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """Blocked when a GPU cannot have a wished setting, named with what it can have."""
    spec = wanted.spec
    if spec.power_limit is None and spec.mig is None and spec.ecc is None:
        return None
    gpus = answers(wanted, facts)
    if gpus is None:
        return None
    found = [] if gpus else ["the loaded driver shows no GPU"]
    for gpu in gpus:
        if spec.power_limit is not None:
            found.append(_beyond(gpu, spec.power_limit))
        found.append(mig.wrong(gpu, spec.mig or ()))
        if spec.ecc and gpu.ecc is None:
            found.append(f"{gpu.name} has no ECC that can be switched on")
    found = [why for why in found if why]
    if not found:
        return None
    return Blocked(
        host=wanted.host,
        reason="; ".join(found),
        rule="a setting is given to every GPU of a host or to none",
        source="nvidia-smi on this host; inventory keys power_limit, mig, ecc",
        unblock=("mend the key in the inventory, or leave it out for this host",),
    )


def _beyond(gpu: GpuSettings, watts: int) -> str:
    if gpu.power_limit is None or gpu.power_min is None or gpu.power_max is None:
        return f"{gpu.name} has no power limit that can be set"
    if gpu.power_min <= watts <= gpu.power_max:
        return ""
    return f"{gpu.name} takes {gpu.power_min:g} to {gpu.power_max:g} W, not {watts}"


def pending(wanted: Wanted, facts: NodeFacts) -> str:
    """What waits for a boot, "" when nothing that is wished does."""
    spec, gpus = wanted.spec, facts.gpu_settings or ()
    waiting = {
        "ECC": [g for g in gpus if spec.ecc is not None and g.ecc != g.ecc_pending == spec.ecc],
        "MIG mode": [
            g for g in gpus if spec.mig is not None and g.mig != g.mig_pending == bool(spec.mig)
        ],
    }
    found = [
        f"{what} of GPU {', '.join(str(gpu.index) for gpu in those)}"
        for what, those in waiting.items()
        if those
    ]
    return f"waiting for a boot: {'; '.join(found)}" if found else ""


def foreseen(wanted: Wanted, facts: NodeFacts) -> Reboot | None:
    """The reboot that a change of the ECC mode will need. Boards with ECC come with it on."""
    why, wish = pending(wanted, facts), wanted.spec.ecc
    if not why and wish is not None and wanted.stack.driver is not None:
        gpus = answers(wanted, facts)
        changes = not wish if gpus is None else any(g.ecc not in {wish, None} for g in gpus)
        why = f"ECC is switched {'on' if wish else 'off'} by a boot" if changes else ""
    return Reboot(why=why, expected=True) if why else None


def warnings(wanted: Wanted, facts: NodeFacts) -> list[str]:
    """What is not set here, or will not last."""
    spec = wanted.spec
    if wanted.stack.driver is None:
        wishes = {
            "power_limit": spec.power_limit is not None,
            "mig": spec.mig is not None,
            "ecc": spec.ecc is not None,
            "module_options": bool(spec.module_options),
        }
        ignored = [key for key, wished in wishes.items() if wished]
        if ignored:
            return [f"no driver is managed here, so nothing is set of {', '.join(ignored)}"]
    if spec.power_limit is not None and not spec.persistence:
        return [
            "power_limit with persistence = False: the driver forgets the limit when the last "
            "process leaves a GPU"
        ]
    return []
