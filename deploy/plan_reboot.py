"""Whether a host must boot again before it conforms: due now, or foreseen by a plan. Pure."""

from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import driver, module, module_options, setting_rules
from deploy.layers.kernels import wanted_kernels
from deploy.steps import Reboot, Step, Wanted


def reboot_due(wanted: Wanted, facts: NodeFacts) -> Reboot | None:
    """Whether the host must boot again, from what it is: another module is loaded than the one
    on disk, or with other options; nothing can be built for the running kernel; nouveau is bound;
    a setting of a GPU waits for a boot. None while a boot would not bring the wanted module."""
    wish = wanted.stack.driver
    if wish is None or not wanted.spec.privileged:
        return None
    modules = known(facts, "modules", facts.modules)
    kernel = known(facts, "kernel", facts.kernel)
    if not module.built_for(modules, kernel.next, wish):
        return None
    if module.runs(modules, wish):
        why = setting_rules.pending(wanted, facts)
        if module_options.PATH in known(facts, "files", facts.files):
            other = module_options.differing(wanted, facts)
            why = f"module nvidia is loaded without {', '.join(other)}" if other else why
        return Reboot(why=why, expected=False) if why else None
    if modules.loaded_version:
        found = f"{modules.loaded_version} ({modules.loaded_flavour or 'flavour unknown'})"
        why = f"module {found} is loaded, {wish.version} ({wish.flavour}) is installed"
        return Reboot(why=why, expected=False)
    if kernel.running not in wanted_kernels(facts):
        why = f"kernel {kernel.running} has no headers any more; {kernel.next} has the module"
        return Reboot(why=why, expected=False)
    if modules.nouveau_loaded and modules.nouveau_blacklisted:
        return Reboot(why="nouveau holds the GPUs until the next boot", expected=False)
    return None


def foreseen(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> Reboot | None:
    """The reboot that this plan will most likely need. An idle module is unloaded without one;
    that only its loading is left to do tells that this did not work before."""
    wish, modules = wanted.stack.driver, known(facts, "modules", facts.modules)
    if wish is None or not wanted.spec.privileged:
        return None
    if module.runs(modules, wish):
        due = reboot_due(wanted, facts)
        if due is not None and [step.layer for step in steps] == [driver.NAME]:
            return due.model_copy(update={"expected": True})
        return setting_rules.foreseen(wanted, facts)
    kernel = known(facts, "kernel", facts.kernel)
    if kernel.running not in wanted_kernels(facts):
        why = f"kernel {kernel.running} has no headers any more, so the module is for {kernel.next}"
        return Reboot(why=why, expected=True)
    if modules.nouveau_loaded:
        return Reboot(why="nouveau is loaded and seldom lets go of the GPUs", expected=True)
    rest = [step for step in steps if step.layer == driver.NAME]
    due = reboot_due(wanted, facts)
    if due is not None and len(rest) == 1:
        return due.model_copy(update={"expected": True})
    return setting_rules.foreseen(wanted, facts)
