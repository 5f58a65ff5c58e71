"""From a stack and facts to ordered steps: `plan_host`, pure and complete.

The plan is empty when the host conforms; nothing here remembers what an earlier run did.
"""

from typing import Literal, Protocol

from deploy import hazards, transact, unprivileged
from deploy.facts import NodeFacts
from deploy.fleet.model import Model
from deploy.known import UnknownFact, known
from deploy.layers import (
    container_toolkit,
    cuda,
    cudnn,
    dcgm,
    driver,
    expected,
    fabric,
    imex,
    memlock,
    module,
    module_options,
    nccl,
    os_base,
    persistence,
    pins,
    rdma,
    repository,
    setting_rules,
    settings,
    torch_env,
)
from deploy.layers.kernels import wanted_kernels
from deploy.layers.prerequisites import lacks_source
from deploy.packages import locked, upstream
from deploy.stack import Blocked
from deploy.steps import Reboot, Step, Wanted

Verdict = Literal["keep", "change", "busy", "blocked"]


class Layer(Protocol):
    """A module that knows one part of the stack."""

    NAME: str

    def steps(self, wanted: Wanted, facts: NodeFacts) -> list[Step]:
        """What is not as wanted, and what makes it so; [] when all is."""


LAYERS: tuple[Layer, ...] = (
    os_base,
    repository,
    pins,
    module_options,
    driver,
    rdma,
    fabric,
    imex,
    persistence,
    settings,
    memlock,
    cuda,
    cudnn,
    nccl,
    dcgm,
    container_toolkit,
    torch_env,
    expected,
)
"""In the order of a deploy: each may rely on those before it."""
WITHOUT_ROOT: tuple[Layer, ...] = (torch_env, expected)
"""Those that write below the prefix only."""


class HostPlan(Model):
    """What would happen on one host."""

    host: str
    steps: tuple[Step, ...] = ()
    reboot: Reboot | None = None
    busy: tuple[str, ...] = ()
    """Who uses the GPUs, also when no step would disturb them."""
    blocked: Blocked | None = None
    warnings: tuple[str, ...] = ()
    left_out: tuple[str, ...] = ()
    """Layers that are not managed here, because the inventory says privileged = False."""
    download: int = 0
    """Bytes of packages and wheels to fetch, as far as the lock knows their sizes."""

    @property
    def verdict(self) -> Verdict:
        """`busy`: something must wait until the users have finished."""
        if self.blocked is not None:
            return "blocked"
        if self.busy and (self.reboot or any(step.disruptive for step in self.steps)):
            return "busy"
        return "change" if self.steps or self.reboot else "keep"


def plan_host(wanted: Wanted, facts: NodeFacts) -> HostPlan:
    """The ordered steps from `facts` to `wanted`. Never raises for what a host answered: a fact
    that is needed and unknown blocks the host."""
    if unpacked := _no_packager(wanted):
        return HostPlan(host=wanted.host, blocked=unpacked)
    try:
        layers = LAYERS if wanted.spec.privileged else WITHOUT_ROOT
        steps = [step for layer in layers for step in layer.steps(wanted, facts)]
        steps = _in_their_turn(steps)
        blocked = (
            unprivileged.lacking(wanted, facts, steps)
            or lacks_source(wanted, facts)
            or _refused(wanted, facts)
            or _no_way(wanted, facts, steps)
        )
        if blocked is not None:
            return HostPlan(host=wanted.host, blocked=blocked)
        return HostPlan(
            host=wanted.host,
            steps=tuple(steps),
            reboot=_foreseen(wanted, facts, steps),
            busy=users(facts),
            warnings=tuple(_warnings(wanted, facts, steps)),
            left_out=tuple(layer.NAME for layer in LAYERS if layer not in layers),
            download=sum(step.download for step in steps),
        )
    except UnknownFact as unknown:
        return HostPlan(
            host=wanted.host,
            blocked=Blocked(
                host=wanted.host,
                reason=str(unknown),
                rule="nothing is changed on a host while a fact that the plan needs is unknown",
                source="gpufleet: unknown never means fine",
                unblock=(f"gpufleet facts -w {wanted.host}",),
            ),
        )


def _no_packager(wanted: Wanted) -> Blocked | None:
    """A stack whose package system no layer speaks: it is solved, and nothing installs it."""
    if not wanted.spec.privileged or wanted.stack.packaging in transact.SPOKEN:
        return None
    return Blocked(
        host=wanted.host,
        reason=f"{wanted.stack.distribution} is solved, but no layer installs packages with "
        f"{wanted.stack.packaging}",
        rule="packaging",
        source="gpufleet: layers speak " + " and ".join(transact.SPOKEN),
        unblock=(
            "install what `gpufleet plan --explain` names by hand, then: privileged = False, for "
            "the environment and verification",
        ),
    )


def _refused(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """A setting that this host's driver or GPUs cannot have."""
    if not wanted.spec.privileged:
        return None
    return module_options.refused(wanted, facts) or setting_rules.refused(wanted, facts)


def _in_their_turn(steps: list[Step]) -> list[Step]:
    """Steps that would be wrong, fail or do nothing if a disruptive one before them was left out
    for now: what is set in the wanted driver waits for it to be loaded."""
    disruptive = {step.layer for step in steps if step.disruptive}
    waiting = {expected.NAME} if disruptive else set()
    if driver.NAME in disruptive:
        waiting |= {settings.NAME, container_toolkit.NAME}
    return [
        step.model_copy(update={"disruptive": True})
        if os_base.NAME in disruptive or step.layer in waiting
        else step
        for step in steps
    ]


def users(facts: NodeFacts) -> tuple[str, ...]:
    """Who uses this host's GPUs; that it is unknown counts as a user."""
    found = []
    if facts.slurm_jobs is None:
        why = facts.unknown.get("slurm_jobs", "no reason given")
        found.append(f"unknown Slurm jobs ({why})")
    else:
        found += [f"job {job.job} of {job.user}" for job in facts.slurm_jobs]
    if facts.gpu_users is None:
        why = facts.unknown.get("gpu_users", "no reason given")
        found.append(f"unknown users of the GPUs ({why})")
    else:
        found += [f"pid {one.pid} of {one.user} ({one.command})" for one in facts.gpu_users]
    return tuple(found)


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


def _foreseen(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> Reboot | None:
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


def _no_way(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> Blocked | None:
    disks = known(facts, "disks", facts.disks)
    ours = disks if wanted.spec.privileged else {_parent(wanted)}
    stuck = sorted(path for path in disks if path in ours and disks[path].read_only)
    stuck = [path for path in stuck if path != "/tmp"]
    if not steps or not stuck:
        return None
    count = f"{len(steps)} step{'s' if len(steps) > 1 else ''}"
    return Blocked(
        host=wanted.host,
        reason=f"mounted read-only: {', '.join(stuck)}; {count} would have to write",
        rule="nothing is changed on a host whose file systems are read-only: one that became so "
        "has met an error",
        source="errors=remount-ro of mount(8)",
        unblock=(
            f"ssh {wanted.host} 'journalctl -k | grep -i remount' and look at the disk",
            "mount it read-write",
        ),
    )


def _parent(wanted: Wanted) -> str:
    """The folder that the prefix is made in: what the probe measures of its disk."""
    return wanted.spec.prefix.rpartition("/")[0]


def _warnings(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> list[str]:
    stack, found = wanted.stack, unprivileged.warnings(wanted, facts)
    if stack.repository is not None:
        found += [
            f"{source.path} configures the vendor's repository too; it is used as it is, and its "
            "own key decides what is trusted"
            for source in repository.same_repository(facts, stack.repository.url)
        ]
    seen, wish = expected.seen_gpus(facts), expected.expected_gpus(wanted, facts)
    if seen != wish:
        found.append(
            f"{seen} GPUs on the PCI bus, {wish} expected; look at the hardware, or set "
            f"gpus = {seen} in the inventory when that is right"
        )
    packages = known(facts, "packages", facts.packages)
    stale = [
        f"{name} {packages[name].version}"
        for name in driver.companions(wanted, facts)
        if stack.driver and upstream(packages[name].version) != stack.driver.version
    ]
    if stale:
        found.append(
            f"not in the lock, and of another driver version: {', '.join(stale)}; what cannot "
            "stay beside the locked packages goes"
        )
    if wanted.spec.library_path:
        found.append(
            "library_path puts system libraries before the wheel's own; a cuDNN or NCCL there "
            "breaks torch"
        )
    if wanted.spec.privileged:
        for part in (rdma, imex, setting_rules, container_toolkit):
            found += part.warnings(wanted, facts)
    found += hazards.warnings(wanted, facts)
    place = "/" if wanted.spec.privileged else _parent(wanted)
    disk, fetch = known(facts, "disks", facts.disks).get(place), sum(s.download for s in steps)
    if disk is not None and fetch and disk.available < 3 * fetch:
        found.append(
            f"{disk.available >> 20} MiB free on {place}, and {fetch >> 20} MiB to fetch and unpack"
        )
    holder = known(facts, "dpkg", facts.dpkg).lock_holder
    if holder and steps and locked(stack):
        found.append(f"dpkg is in use by {holder}; apply waits for it")
    return found
