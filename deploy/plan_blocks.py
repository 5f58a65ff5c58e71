"""What stands against a plan that the solver could not know: each names its way out. Pure."""

from deploy import transact
from deploy.facts import NodeFacts
from deploy.known import known
from deploy.layers import module_options, setting_rules
from deploy.stack import Blocked
from deploy.steps import Step, Wanted


def no_packager(wanted: Wanted) -> Blocked | None:
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


def refused(wanted: Wanted, facts: NodeFacts) -> Blocked | None:
    """A setting that this host's driver or GPUs cannot have."""
    if not wanted.spec.privileged:
        return None
    return module_options.refused(wanted, facts) or setting_rules.refused(wanted, facts)


def no_way(wanted: Wanted, facts: NodeFacts, steps: list[Step]) -> Blocked | None:
    """A file system that the steps would write to is mounted read-only."""
    disks = known(facts, "disks", facts.disks)
    ours = disks if wanted.spec.privileged else {parent(wanted)}
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


def parent(wanted: Wanted) -> str:
    """The folder that the prefix is made in: what the probe measures of its disk."""
    return wanted.spec.prefix.rpartition("/")[0]
