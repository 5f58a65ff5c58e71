"""From a stack and facts to ordered steps: `plan_host`, pure and complete.

The plan is empty when the host conforms; nothing here remembers what an earlier run did.
"""

from typing import Literal, Protocol

from deploy import plan_blocks, plan_reboot, plan_warnings, unprivileged
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
    settings,
    torch_env,
)
from deploy.layers.prerequisites import lacks_source
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
    if unpacked := plan_blocks.no_packager(wanted):
        return HostPlan(host=wanted.host, blocked=unpacked)
    try:
        layers = LAYERS if wanted.spec.privileged else WITHOUT_ROOT
        steps = [step for layer in layers for step in layer.steps(wanted, facts)]
        steps = _in_their_turn(wanted, facts, steps)
        blocked = (
            unprivileged.lacking(wanted, facts, steps)
            or lacks_source(wanted, facts)
            or plan_blocks.refused(wanted, facts)
            or plan_blocks.no_way(wanted, facts, steps)
        )
        if blocked is not None:
            return HostPlan(host=wanted.host, blocked=blocked)
        return HostPlan(
            host=wanted.host,
            steps=tuple(steps),
            reboot=plan_reboot.foreseen(wanted, facts, steps),
            busy=users(facts),
            warnings=tuple(plan_warnings.warnings(wanted, facts, steps)),
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


def _in_their_turn(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> list[Step]:
    """Steps that would be wrong, fail or do nothing if a disruptive one before them was left out
    for now: what is set in the wanted driver waits while another one is loaded."""
    wish = wanted.stack.driver
    disruptive = {step.layer for step in steps if step.disruptive}
    waiting = {expected.NAME} if disruptive else set()
    if (
        wish is not None
        and driver.NAME in disruptive
        and not module.runs(known(facts, "modules", facts.modules), wish)
    ):
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
